"""One series, one folder: what each series in reception is called and what lies in it (decision 26).

Claims are made on the loop's thread. A folder's files are listed and changed by whichever thread
places a file; each of those steps is one dictionary operation.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from typing import Final

from oxidicom.ports import SeriesInfo, SeriesKey

_OPEN_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_INSTANCE_FILE: Final = re.compile(r".*-([0-9.]+)\.dcm", re.DOTALL)


class SeriesFolder:
    """Where a series goes while it is in reception."""

    __slots__ = (
        "associations",
        "files",
        "journaled",
        "listed",
        "path",
        "pending",
        "series",
        "stored",
    )

    def __init__(self, series: SeriesInfo) -> None:
        self.series = series
        self.path = series.path.encode()
        self.files: dict[str, str] = {}
        """SOP Instance UID → file name, of what lies in the folder."""
        self.listed = False
        self.stored = 0
        self.pending = 0
        """Instances on their way into it."""
        self.associations: set[str] = set()
        self.journaled: set[str] = set()


class SeriesFolders:
    """Every series in reception. The first stored instance names the folder; later ones follow."""

    def __init__(self) -> None:
        self._folders: dict[SeriesKey, SeriesFolder] = {}
        self._by_association: dict[str, set[SeriesKey]] = {}
        self.differing = 0
        """Instances whose own names would have led to another folder."""

    def __len__(self) -> int:
        return len(self._folders)

    def claim(self, series: SeriesInfo, association_id: str) -> SeriesFolder:
        key = series.key
        folder = self._folders.get(key)
        if folder is None or not (folder.stored or folder.pending):
            # A claim whose instances all failed does not bind those that follow.
            folder = self._folders[key] = SeriesFolder(series)
        elif folder.series is not series and folder.series.path != series.path:
            self.differing += 1
        folder.pending += 1
        if association_id not in folder.associations:
            folder.associations.add(association_id)
            self._by_association.setdefault(association_id, set()).add(key)
        return folder

    def restore(self, series: SeriesInfo) -> None:
        """A series that a crash interrupted goes on where it lies (decision 32)."""
        folder = SeriesFolder(series)
        folder.stored = 1
        self._folders[series.key] = folder

    def association_ended(self, association_id: str) -> None:
        for key in self._by_association.pop(association_id, ()):
            folder = self._folders.get(key)
            if folder is not None:
                folder.associations.discard(association_id)
                folder.journaled.discard(association_id)
                if folder.stored == 0 and not folder.associations:
                    del self._folders[key]

    def completed(self, key: SeriesKey) -> None:
        """The series is registered: its next instance begins a reception of its own, unless an
        association that is still open has claimed it meanwhile."""
        folder = self._folders.get(key)
        if folder is not None and not folder.associations:
            del self._folders[key]


def instance_uid_of(file_name: str) -> str | None:
    """The SOP Instance UID that a file is named by; None where the name does not tell for sure."""
    match = _INSTANCE_FILE.fullmatch(file_name)
    return match[1] if match else None


def make_folders(root_fd: int, path: bytes, sync: bool) -> None:
    """Make each folder of `path` beneath `root_fd` that is missing; follows no symbolic link.

    Raises OSError: ELOOP or ENOTDIR where a link or a file stands in the way. With `sync` the
    new names are on the device when it returns.
    """
    parent = os.dup(root_fd)
    try:
        for component in path.split(b"/"):
            made = False
            with suppress(FileExistsError):
                os.mkdir(component, 0o755, dir_fd=parent)
                made = True
            child = os.open(component, _OPEN_FOLDER, dir_fd=parent)
            if made and sync:
                os.fsync(parent)
            os.close(parent)
            parent = child
    finally:
        os.close(parent)


def open_folder(root_fd: int, path: bytes) -> int:
    """A descriptor of `path` beneath `root_fd`, following no symbolic link; raises OSError."""
    parent = os.dup(root_fd)
    for component in path.split(b"/"):
        try:
            child = os.open(component, _OPEN_FOLDER, dir_fd=parent)
        finally:
            os.close(parent)
        parent = child
    return parent


def list_instances(root_fd: int, path: bytes) -> dict[str, str]:
    """SOP Instance UID → file name of the files in a folder; raises OSError."""
    fd = open_folder(root_fd, path)
    try:
        names = os.listdir(fd)
    finally:
        os.close(fd)
    return {uid: name for name in names if (uid := instance_uid_of(name)) is not None}


def remove_file(root_fd: int, path: bytes, name: str) -> None:
    """Remove a regular file; one that is not there is fine. Raises other OSErrors."""
    fd = open_folder(root_fd, path)
    try:
        with suppress(FileNotFoundError):
            if stat.S_ISREG(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                os.unlink(name, dir_fd=fd)
    finally:
        os.close(fd)
