"""Instance files in a series folder: read UIDs from their names, count them, and remove all but the
newest file of each instance (decision 29)."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from oxidicom.below_root import list_files, open_folder_if_there, open_root
from oxidicom.filesystem import close_folder
from oxidicom.ports import SeriesInfo
from oxidicom.store.paths import COMPONENT_LIMIT

# An instance number has at least four characters. It may contain "-", and so may an invalid UID.
# Where the UID begins is certain only if a single "-" follows the first four characters.
_INSTANCE_FILE: Final = re.compile(r".{4}[^-]*-([0-9.]+)\.dcm", re.DOTALL)


def instance_uid_of(file_name: str) -> str | None:
    """Return the SOP Instance UID that a file name contains; None if it cannot be determined.

    A name of COMPONENT_LIMIT bytes may be cut, and then ends in a hash (`store.paths`).
    """
    if len(file_name) >= COMPONENT_LIMIT:
        return None
    match = _INSTANCE_FILE.fullmatch(file_name)
    return match[1] if match else None


def list_instances(root_fd: int, path: bytes) -> dict[str, str]:
    """Return the files in the folder `path`: file names by SOP Instance UID. Raises OSError.

    Files whose names contain no certain UID are left out (`instance_uid_of`).
    """
    names = list_files(root_fd, path)
    return {uid: name for name in names if (uid := instance_uid_of(name)) is not None}


def count_instances(files_root: Path, series: SeriesInfo) -> int:
    """Return the number of `.dcm` files in the folder of a series; 0 if there is no folder.

    Raises OSError if the folder cannot be listed or the files root is missing.
    """
    root_fd = open_root(files_root)
    try:
        names = list_files(root_fd, os.fsencode(series.path), missing_ok=True)
    finally:
        close_folder(root_fd)
    return sum(name.endswith(".dcm") for name in names)


def keep_newest(root_fd: int, path: bytes) -> None:
    """Remove the older files where several files in the folder `path` have the same UID.

    The newest file is the one that was renamed last: it has the latest change time, to the
    precision of the file system. Does nothing if the folder does not exist; raises OSError for
    other errors.
    """
    fd = open_folder_if_there(root_fd, path)
    if fd is None:
        return
    try:
        first: dict[str, str] = {}
        several: dict[str, list[str]] = {}
        for name in os.listdir(fd):
            uid = instance_uid_of(name)
            if uid is not None and (other := first.setdefault(uid, name)) != name:
                several.setdefault(uid, [other]).append(name)
        for names in several.values():
            _remove_all_but_newest(fd, names)
    finally:
        close_folder(fd)


def _remove_all_but_newest(fd: int, names: Iterable[str]) -> None:
    files = []
    for name in names:
        with suppress(FileNotFoundError):
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if stat.S_ISREG(status.st_mode):
                files.append((status.st_ctime_ns, status.st_mtime_ns, name))
    for *_, name in sorted(files)[:-1]:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=fd)
