"""The files of instances in the folder of a series: their UIDs, their number, the newest
(decision 29)."""

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

# An instance number takes at least four characters and may contain "-"; so may an invalid UID.
# Only where a single "-" follows those four is it certain where the UID begins.
_INSTANCE_FILE: Final = re.compile(r".{4}[^-]*-([0-9.]+)\.dcm", re.DOTALL)


def instance_uid_of(file_name: str) -> str | None:
    """Return the SOP Instance UID in a file name; None where it is not certain.

    A name of COMPONENT_LIMIT bytes may have been cut, and then ends in a hash (`store.paths`).
    """
    if len(file_name) >= COMPONENT_LIMIT:
        return None
    match = _INSTANCE_FILE.fullmatch(file_name)
    return match[1] if match else None


def list_instances(root_fd: int, path: bytes) -> dict[str, str]:
    """Return the file name of each SOP Instance UID in a folder; raises OSError.

    Files whose names do not tell a UID are left out.
    """
    names = list_files(root_fd, path)
    return {uid: name for name in names if (uid := instance_uid_of(name)) is not None}


def count_instances(files_root: Path, series: SeriesInfo) -> int:
    """Return how many `.dcm` files CUBE will find in the folder of a series; 0 if there is none.

    Raises OSError for anything that leaves the count unknown, a missing root included.
    """
    root_fd = open_root(files_root)
    try:
        names = list_files(root_fd, os.fsencode(series.path), missing_ok=True)
    finally:
        close_folder(root_fd)
    return sum(name.endswith(".dcm") for name in names)


def keep_newest(root_fd: int, path: bytes) -> None:
    """Where a folder has several files of one instance, remove all but the newest.

    The newest is the one that got its name last, by its change time, as precise as the file system
    keeps it. Does nothing where there is no such folder; raises other OSErrors.
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
