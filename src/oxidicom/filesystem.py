"""Small files: written atomically, and read without following links or exceeding a size.

Only rename(2) is relied upon, no locks, so that everything here also works on NFS. In a folder
written by this module a leading dot marks a name that is not a final one: a temporary file of this
module, or one of NFS's `.nfs…` names of files that were removed while open.
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
"""Greatest size in bytes of a file of this module. The records in such files have 1 or 2 KiB."""

_TEMPORARY_SUFFIX: Final = ".tmp"
_STALE_TEMPORARY_S: Final = 3600.0
"""Seconds since its last change after which a temporary file of another host is considered left
behind. Writing takes milliseconds, but the clocks of NFS servers may be wrong."""

_unremoved: Final[list[str]] = []
"""Temporary files that could not be removed; removed before the next one is created."""

_signature: Final = sign()
_numbers: Final = count()


def create_folder(folder: Path, *, sync: bool) -> None:
    """Make `folder`, which only its user can read, and its missing parents; raises OSError."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if sync:
        for each in reversed(missing):
            sync_folder(each.parent)


def write_atomically(folder: Path, name: str, data: bytes, *, sync: bool) -> None:
    """Write the file `name`, replacing an older one; a half-written file is never visible.

    Once this returns, the file survives the death of this process; with `sync` it survives a power
    failure too. Raises OSError, with EFBIG if `data` exceeds MAX_SMALL_FILE bytes, because it could
    not be read again. After an error the temporary file is removed now or by the next call. Raises
    ValueError if `name` is empty, begins with a dot or contains a slash.
    """
    if not name or name.startswith(".") or "/" in name:
        raise ValueError("the name is empty, hidden or a path")
    if len(data) > MAX_SMALL_FILE:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    _retry_removals()
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
        _unremoved.append(temporary)
        _retry_removals()
        raise
    if sync:
        sync_folder(folder)


def _retry_removals() -> None:
    with contextlib.suppress(IndexError):  # another thread took the last name
        while _unremoved:
            path = _unremoved.pop()
            try:
                remove_if_there(path)
            except OSError:
                _unremoved.append(path)
                return


def read_small(path: Path | str) -> bytes:
    """Return the first MAX_SMALL_FILE + 1 bytes of a file, or all if it has fewer.

    A result of more than MAX_SMALL_FILE bytes means that the file is too large. Raises OSError,
    with ELOOP for a symbolic link. Does not block if `path` is a pipe.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        return file.read(MAX_SMALL_FILE + 1) or b""  # None: a pipe without data


def names(folder: Path) -> list[str]:
    """Return the final names in `folder`, sorted; raises OSError."""
    return sorted(name for name in os.listdir(folder) if not name.startswith("."))


def remove_if_there(path: Path | str) -> None:
    """Remove a file; do nothing where there is none. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def remove_stale_temporaries(folder: Path) -> None:
    """Remove the temporary files of killed processes from `folder`; raises OSError.

    Those of other hosts are removed once they have not changed for _STALE_TEMPORARY_S seconds.
    """
    oldest = time.time() - _STALE_TEMPORARY_S
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
    """Flush the entries of `folder` to the device with fsync(2); raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        close_folder(descriptor)


def close_folder(descriptor: int) -> None:
    """Close the descriptor of a folder; never raises.

    Errors are ignored: nothing was written through the descriptor, and close(2) frees it even if it
    reports an error.
    """
    with contextlib.suppress(OSError):
        os.close(descriptor)
