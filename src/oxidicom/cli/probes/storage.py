"""Could instances and our own records be stored where we are told to?

Every step that storing takes is taken once with a small file; nothing stays behind.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from oxidicom.cli.probes import Finding, Verdict
from oxidicom.settings import Settings

_OURS: Final = ".oxidicom"
_CONTENT: Final = b"oxidicom check\n"


class _Trouble(Exception):
    """What is wrong, in words."""


def probe_storage(settings: Settings) -> list[Finding]:
    root = settings.files_root
    findings = [
        _finding("storage", root, "OXIDICOM_FILES_ROOT", settings.min_free_space, _probe_files)
    ]
    if settings.state_dir != root / _OURS:
        findings.append(
            _finding("state", settings.state_dir, "OXIDICOM_STATE_DIR", 0, _probe_state)
        )
    return findings


def _finding(
    subject: str,
    folder: Path,
    variable: str,
    least_free: int,
    probe: Callable[[Path, list[Path]], None],
) -> Finding:
    made: list[Path] = []
    try:
        probe(folder, made)
        free = _free_space(folder, least_free)
    except _Trouble as trouble:
        return Finding(subject, Verdict.FAULT, str(trouble))
    except OSError as error:
        return Finding(subject, Verdict.FAULT, _words(error, folder, variable))
    finally:
        for each in reversed(made):
            with contextlib.suppress(OSError):  # somebody else has begun to use it
                each.rmdir()
    return Finding(
        subject, Verdict.OK, f"{folder} can be written, synced and renamed in; {free} free"
    )


def _probe_files(root: Path, made: list[Path]) -> None:
    _make(root, made)
    for below in (_OURS, "SERVICES", "SERVICES/PACS"):
        if (root / below).is_symlink():
            raise _Trouble(
                f"{root / below} is a symbolic link, and none is followed below"
                " OXIDICOM_FILES_ROOT: put a real folder there, or mount the storage there"
            )
    temporary = root / _OURS / "tmp"
    final = root / "SERVICES" / "PACS"
    _make(temporary, made)
    _make(final, made)
    _try_file(temporary, final)


def _probe_state(folder: Path, made: list[Path]) -> None:
    _make(folder, made)
    _try_file(folder, folder)


def _make(folder: Path, made: list[Path]) -> None:
    """Like mkdir -p; what was missing is added to `made`."""
    if folder.is_dir():
        return
    if os.path.lexists(folder):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    _make(folder.parent, made)
    folder.mkdir()
    made.append(folder)


def _try_file(first: Path, second: Path) -> None:
    """Go the way of one file: made in `first`, written, synced, renamed into `second`, removed."""
    name = f".oxidicom-check-{secrets.token_hex(8)}"
    before, after = first / name, second / f"{name}-renamed"
    descriptor = os.open(before, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        try:
            os.write(descriptor, _CONTENT)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        before.rename(after)
    except BaseException:
        before.unlink(missing_ok=True)
        raise
    after.unlink()


def _free_space(folder: Path, least: int) -> str:
    room = os.statvfs(folder)
    free = room.f_bavail * room.f_frsize
    shown = f"{free / 2**30:.1f} GiB"
    if free < least:
        raise _Trouble(
            f"{folder} has {shown} free, less than OXIDICOM_MIN_FREE_SPACE"
            f" ({least / 2**30:.1f} GiB): every instance would be refused; make room"
        )
    if room.f_files and not room.f_favail:
        raise _Trouble(f"the file system of {folder} has no inodes left: remove files there")
    return shown


def _words(error: OSError, folder: Path, variable: str) -> str:
    where = error.filename or folder
    match error.errno:
        case errno.EACCES | errno.EPERM:
            return (
                f"user {os.geteuid()}, group {os.getegid()} may not write at {where}"
                f"{_owner(Path(where))}: change its owner, or run oxidicom as another user"
            )
        case errno.EROFS:
            return f"{where} is on a file system mounted read-only: mount it writable"
        case errno.ENOSPC:
            return f"the file system of {where} is full: make room"
        case errno.EDQUOT:
            return f"the quota for {where} is used up: raise it, or make room"
        case errno.ENOTDIR:
            return f"{where} is not a folder: correct {variable}, or move what stands there"
        case errno.EXDEV:
            return (
                f"{folder / _OURS} and {folder / 'SERVICES' / 'PACS'} are on different file"
                f" systems, so no file can be renamed from one to the other: mount one file"
                f" system at {variable} and none below it"
            )
    return f"the storage at {where} answers: {error.strerror}; correct it, or {variable}"


def _owner(path: Path) -> str:
    """Of the nearest thing that exists, as far as we may see."""
    for each in (path, *path.parents):
        try:
            found = each.stat()
        except OSError:
            continue
        mode = stat.S_IMODE(found.st_mode)
        return f" ({each} belongs to user {found.st_uid}, group {found.st_gid}, mode {mode:04o})"
    return ""
