"""Probe of the files root and the state folder: whether files can be stored there.

It performs each step of storing an instance once, with a small file, and removes what it created.
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

_OUR_FOLDER: Final = ".oxidicom"
"""Folder of oxidicom in the files root; the state folder unless another one is set."""
_CONTENT: Final = b"oxidicom check\n"


class _StorageError(Exception):
    """The storage cannot be used. The text says why and what to do."""


def probe_storage(settings: Settings) -> list[Finding]:
    """Return a finding for the files root, and one for a state folder other than the default."""
    root = settings.files_root
    findings = [
        _finding("storage", root, "OXIDICOM_FILES_ROOT", settings.min_free_space, _probe_files)
    ]
    if settings.state_dir != root / _OUR_FOLDER:
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
    except _StorageError as error:
        return Finding(subject, Verdict.FAULT, str(error))
    except OSError as error:
        return Finding(subject, Verdict.FAULT, _explain(error, folder, variable))
    finally:
        for each in reversed(made):
            with contextlib.suppress(OSError):  # another program uses it by now
                each.rmdir()
    return Finding(
        subject, Verdict.OK, f"files can be written, synced and renamed in {folder}; {free} free"
    )


def _probe_files(root: Path, made: list[Path]) -> None:
    _make(root, made)
    for below in (_OUR_FOLDER, "SERVICES", "SERVICES/PACS"):
        if (root / below).is_symlink():
            raise _StorageError(
                f"{root / below} is a symbolic link, and links below OXIDICOM_FILES_ROOT are"
                " not followed: replace it by a folder, or mount the storage there"
            )
    temporary = root / _OUR_FOLDER / "tmp"
    final = root / "SERVICES" / "PACS"
    _make(temporary, made)
    _make(final, made)
    _try_file(temporary, final)


def _probe_state(folder: Path, made: list[Path]) -> None:
    _make(folder, made)
    _try_file(folder, folder)


def _make(folder: Path, made: list[Path]) -> None:
    """Make a folder and its missing parents, and append each that was made to `made`.

    Raises OSError.
    """
    if folder.is_dir():
        return
    if os.path.lexists(folder):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    _make(folder.parent, made)
    folder.mkdir()
    made.append(folder)


def _try_file(first: Path, second: Path) -> None:
    """Write and sync a file in `first`, rename it into `second` and remove it. Raises OSError."""
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
    space = os.statvfs(folder)
    free = space.f_bavail * space.f_frsize
    shown = f"{free / 2**30:.1f} GiB"
    if free < least:
        raise _StorageError(
            f"{folder} has {shown} free, less than OXIDICOM_MIN_FREE_SPACE"
            f" ({least / 2**30:.1f} GiB): every instance would be refused; free some space"
        )
    if space.f_files and not space.f_favail:
        raise _StorageError(f"the file system of {folder} has no inodes left: remove files there")
    return shown


def _explain(error: OSError, folder: Path, variable: str) -> str:
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
            return f"the file system of {where} is full: free some space"
        case errno.EDQUOT:
            return f"the quota for {where} is used up: raise it, or free some space"
        case errno.ENOTDIR:
            return f"{where} is not a folder: correct {variable}, or move the file"
        case errno.EXDEV:
            return (
                f"{folder / _OUR_FOLDER} and {folder / 'SERVICES' / 'PACS'} are on different file"
                f" systems, so that no file can be renamed from one to the other: mount one file"
                f" system at {variable} and none below it"
            )
    return f"the storage at {where} failed: {error.strerror}; repair it, or correct {variable}"


def _owner(path: Path) -> str:
    """Return a text on owner and mode of `path`, or of its nearest parent that can be read.

    Returns an empty text if none can be read.
    """
    for each in (path, *path.parents):
        try:
            found = each.stat()
        except OSError:
            continue
        mode = stat.S_IMODE(found.st_mode)
        return f" ({each} belongs to user {found.st_uid}, group {found.st_gid}, mode {mode:04o})"
    return ""
