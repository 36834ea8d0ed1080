"""Small files that must survive us: written whole or not at all, read without trust.

Only `rename` is relied upon, no locks, so that everything here holds on NFS too. In a folder
written by this module a leading dot marks what is not (yet) a file of ours: our temporary names,
and the `.nfs…` names of files removed while open.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from itertools import count
from pathlib import Path
from typing import Final

from oxidicom.process_signature import is_left_behind, sign

MAX_SMALL_FILE: Final = 1024 * 1024
"""Bytes. Our records take one or two KiB; whatever is longer is not ours."""

_TEMPORARY_SUFFIX: Final = ".tmp"
_STALE_SECONDS: Final = 3600.0
"""A living writer keeps a temporary name for milliseconds; clocks of NFS servers may be off."""

_left: Final[list[str]] = []
"""Temporary files that failing storage did not let go; removed before the next one is made."""

_signature: Final = sign()
_numbers: Final = count()


def create_folder(folder: Path, *, sync: bool) -> None:
    """Make `folder`, readable by us only, and its missing parents; raises OSError."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if sync:
        for each in reversed(missing):
            sync_folder(each.parent)


def write_atomically(folder: Path, name: str, data: bytes, *, sync: bool) -> None:
    """Put `data` under `name`, replacing what stood there; at no time is half of it visible.

    With `sync` it is on the medium when this returns, otherwise safe from our death but not from
    the machine's. Raises OSError (EFBIG for more than MAX_SMALL_FILE, so that whatever is written
    can be read), and then leaves no temporary file behind, or removes it the next time.
    """
    if not name or name.startswith(".") or "/" in name:
        raise ValueError("not the name of a file of ours")
    if len(data) > MAX_SMALL_FILE:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    _remove_left()
    target = f"{folder}/{name}"
    temporary = f"{folder}/.{_signature}-{next(_numbers)}{_TEMPORARY_SUFFIX}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        try:
            written = os.write(descriptor, data)
            while written < len(data):
                written += os.write(descriptor, data[written:])
            if sync:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)  # NFS reports a full disk only here
        os.rename(temporary, target)
    except BaseException:
        _left.append(temporary)
        _remove_left()
        raise
    if sync:
        sync_folder(folder)


def _remove_left() -> None:
    with contextlib.suppress(IndexError):  # another thread was quicker
        while _left:
            path = _left.pop()
            try:
                remove_if_there(path)
            except OSError:
                _left.append(path)
                return


def read_small(path: Path | str) -> bytes:
    """The bytes of one of our files, MAX_SMALL_FILE + 1 of them if it is longer than any of ours.

    Neither follows a link nor waits on a pipe that somebody put there; raises OSError.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        return file.read(MAX_SMALL_FILE + 1) or b""  # None: a pipe with a silent writer


def names(folder: Path) -> list[str]:
    """What stands in `folder` under a final name, sorted; raises OSError."""
    return sorted(name for name in os.listdir(folder) if not name.startswith("."))


def remove_if_there(path: Path | str) -> None:
    """Raises OSError for anything but a file that is already gone."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def remove_stale_temporaries(folder: Path) -> None:
    """Remove what writers that were killed left in `folder`; raises OSError.

    Those of this host at once, those of others when they are old.
    """
    oldest = time.time() - _STALE_SECONDS
    with os.scandir(folder) as entries:
        for entry in entries:
            if not (entry.name.startswith(".") and entry.name.endswith(_TEMPORARY_SUFFIX)):
                continue
            try:
                written = entry.stat(follow_symlinks=False).st_mtime
                if written < oldest or is_left_behind(entry.name[1:]):
                    os.unlink(entry.path)
            except FileNotFoundError:
                continue


def sync_folder(folder: Path) -> None:
    """Put the names in `folder` on the medium; raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        close_folder(descriptor)


def close_folder(descriptor: int) -> None:
    """What closing a folder says is nobody's trouble: nothing was written through it, and the
    number is free in any case. Never raises."""
    with contextlib.suppress(OSError):
        os.close(descriptor)
