"""One series, one folder: what each is called and what lies in it (decision 26).

Claims are made on the loop's thread. A folder's files are listed and changed by whichever thread
places a file; each of those steps is one dictionary operation.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

from oxidicom._group_sync import FolderSync
from oxidicom.filesystem import close_folder
from oxidicom.logevents import event
from oxidicom.ports import FolderNames, SeriesInfo, SeriesKey

logger = logging.getLogger("oxidicom.store")

_OPEN_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_NO_FOLDER: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
"""What opening says of a missing folder, a file, a link."""

# An instance number takes at least four characters, and may hold "-"; so may an odd UID. Only with
# a single "-" behind those four is it sure where the one ends and the other begins.
_INSTANCE_FILE: Final = re.compile(r".{4}[^-]*-([0-9.]+)\.dcm", re.DOTALL)
_LONGEST_UNCUT: Final = 254
"""Bytes; a name of 255 may have been cut, and then ends in a hash (naming.py)."""


class SeriesFolder:
    """Where a series goes while it is in reception."""

    __slots__ = (
        "associations",
        "differing",
        "files",
        "journaled",
        "listed",
        "made",
        "path",
        "pending",
        "placing",
        "series",
        "stored",
        "sync",
        "unregistered",
    )

    def __init__(self, series: SeriesInfo) -> None:
        self.series = series
        self.path = series.path.encode()
        self.files: dict[str, str] = {}
        """SOP Instance UID → file name, of what lies in the folder."""
        self.listed = False
        """Whether `files` knows what an earlier reception left in the folder."""
        self.made = False
        self.sync = FolderSync()
        """Of those who place into it, where files are synced."""
        self.stored = 0
        self.pending = 0
        """Instances on their way into it."""
        self.differing = 0
        """Instances, of late, whose own names would have led to another folder."""
        self.associations: set[str] = set()
        """Open ones that have claimed the series."""
        self.unregistered: set[str] = set()
        """Those, open or not, that have stored instances of it since its last registration."""
        self.journaled: set[str] = set()
        self.placing: dict[str, deque[Callable[[], None]]] = {}
        """SOP Instance UIDs that writer threads are placing, and who waits for the end of it: two
        files of one instance at once could each be taken for the older one."""

    def enter(self, sop_instance_uid: str, waiter: Callable[[], None]) -> bool:
        """True: nothing of this instance is being placed; else `waiter` is called after it."""
        waiting = self.placing.get(sop_instance_uid)
        if waiting is None:
            return True
        waiting.append(waiter)
        return False

    def leave(self, sop_instance_uid: str) -> None:
        """It is placed, or failed; the next one of its UID goes on."""
        waiting = self.placing.pop(sop_instance_uid, None)
        if not waiting:
            return
        waiting.popleft()()
        for waiter in waiting:
            if self.enter(sop_instance_uid, waiter):
                waiter()

    def list(self, root_fd: int) -> None:
        """Learn what an earlier reception left here: a repeat of it replaces it. Raises OSError."""
        for uid, name in list_instances(root_fd, self.path).items():
            # Another thread may know better meanwhile.
            self.files.setdefault(uid, name)
        self.listed = True

    def replace(self, file_name: str) -> str | None:
        """The file was placed; returns the same instance's older file, if that has another name."""
        uid = instance_uid_of(file_name)
        if uid is None:
            return None
        older = self.files.get(uid)
        self.files[uid] = file_name
        return None if older == file_name else older


class SharedSeriesFolder(SeriesFolder):
    """One that other processes put instances into: what lies in it nobody knows for sure, and the
    older file of an instance goes when the series is complete (`keep_newest`)."""

    __slots__ = ()

    def __init__(self, series: SeriesInfo) -> None:
        super().__init__(series)
        self.listed = True

    def list(self, root_fd: int) -> None:
        self.listed = True

    def replace(self, file_name: str) -> str | None:
        return None


class SeriesFolders:
    """Every series in reception. The first stored instance names the folder; later ones follow.

    Where several processes receive, `names` knows which instance was the first in any of them.
    """

    def __init__(self, names: FolderNames | None = None) -> None:
        self._names = names
        self._folders: dict[SeriesKey, SeriesFolder] = {}
        self._by_association: dict[str, set[SeriesKey]] = {}
        self.differing = 0
        """Instances, in all, whose own names would have led to another folder."""

    def __len__(self) -> int:
        return len(self._folders)

    def find(self, key: SeriesKey) -> SeriesFolder | None:
        return self._folders.get(key)

    def claim(self, series: SeriesInfo, association_id: str) -> SeriesFolder:
        key = series.key
        folder = self._folders.get(key)
        if folder is None or not (folder.stored or folder.pending):
            # A claim whose instances all failed does not bind those that follow.
            folder = self._folders[key] = self._new_folder(series)
        if folder.series is not series and folder.series.path != series.path:
            self.differing += 1
            folder.differing += 1
        folder.pending += 1
        if association_id not in folder.associations:
            folder.associations.add(association_id)
            self._by_association.setdefault(association_id, set()).add(key)
        return folder

    def _new_folder(self, series: SeriesInfo) -> SeriesFolder:
        if self._names is None:
            return SeriesFolder(series)
        return SharedSeriesFolder(self._names.claim(series))

    def settled(self, folder: SeriesFolder, association_id: str, *, stored: bool) -> None:
        """What `claim` announced is stored, or has failed."""
        folder.pending -= 1
        if stored:
            folder.stored += 1
            folder.unregistered.add(association_id)
            return
        if self._names is not None and not (folder.stored or folder.pending):
            self._names.release(folder.series.key)
        self._forget_if_over(folder)

    def restore(self, series: SeriesInfo, associations: Iterable[str]) -> None:
        """A series that a crash interrupted goes on where it lies (decision 32), unless we have
        begun it ourselves meanwhile."""
        folder = self._folders.get(series.key)
        if folder is None:
            folder = self._folders[series.key] = SeriesFolder(series)
            folder.stored = 1
        folder.unregistered.update(associations)

    def association_ended(self, association_id: str) -> list[SeriesKey]:
        """Returns the series of which it has stored nothing, though it has tried to."""
        in_vain = []
        for key in self._by_association.pop(association_id, ()):
            folder = self._folders.get(key)
            if folder is None or association_id not in folder.unregistered:
                in_vain.append(key)
            if folder is not None:
                folder.associations.discard(association_id)
                folder.journaled.discard(association_id)
                self._warn_of_differing(folder)
                self._forget_if_over(folder)
        return in_vain

    def completed(self, key: SeriesKey, associations: Iterable[str]) -> None:
        """What `associations` stored of the series is registered: the next instance begins a
        reception of its own, unless others have carried the series meanwhile."""
        folder = self._folders.get(key)
        if folder is not None:
            folder.unregistered.difference_update(associations)
            self._forget_if_over(folder)

    def _forget_if_over(self, folder: SeriesFolder) -> None:
        key = folder.series.key
        over = not (folder.associations or folder.unregistered or folder.pending)
        if over and self._folders.get(key) is folder:
            del self._folders[key]
            if self._names is not None and folder.stored:
                self._names.release(key)

    def _warn_of_differing(self, folder: SeriesFolder) -> None:
        if folder.differing:
            event(
                logger,
                logging.WARNING,
                "instances with other patient or study attributes stored in the series folder",
                SeriesInstanceUID=folder.series.series_instance_uid,
                instances=folder.differing,
            )
            folder.differing = 0


def instance_uid_of(file_name: str) -> str | None:
    """The SOP Instance UID that a file is named by; None where the name does not tell for sure."""
    if len(file_name) > _LONGEST_UNCUT:
        return None
    match = _INSTANCE_FILE.fullmatch(file_name)
    return match[1] if match else None


def make_folders(root_fd: int, path: bytes, sync: bool) -> bool:
    """Make each folder of `path` beneath `root_fd` that is missing; follows no symbolic link.

    True: the last one was not there before. Raises OSError: ELOOP or ENOTDIR where a link or a file
    stands in the way. With `sync` the whole path is on the device when it returns, whoever made
    it: another thread may have made a part of it and not synced it yet.
    """
    made = False
    parent = os.dup(root_fd)
    for component in path.split(b"/"):
        try:
            made = False
            with suppress(FileExistsError):
                os.mkdir(component, 0o755, dir_fd=parent)
                made = True
            if sync:
                os.fsync(parent)
            child = os.open(component, _OPEN_FOLDER, dir_fd=parent)
        finally:
            close_folder(parent)
        parent = child
    close_folder(parent)
    return made


def open_folder(root_fd: int, path: bytes) -> int:
    """A descriptor of `path` beneath `root_fd`, following no symbolic link; raises OSError."""
    parent = os.dup(root_fd)
    for component in path.split(b"/"):
        try:
            child = os.open(component, _OPEN_FOLDER, dir_fd=parent)
        finally:
            close_folder(parent)
        parent = child
    return parent


def list_instances(root_fd: int, path: bytes) -> dict[str, str]:
    """SOP Instance UID → file name of the files in a folder; raises OSError."""
    fd = open_folder(root_fd, path)
    try:
        names = os.listdir(fd)
    finally:
        close_folder(fd)
    return {uid: name for name in names if (uid := instance_uid_of(name)) is not None}


def keep_newest(root_fd: int, path: bytes) -> None:
    """Of several files of one instance in a folder only the newest stays (decision 29).

    A file is as old as its name: that is its change time, as fine as the file system keeps it. A
    folder that is not there is fine. Raises other OSErrors.
    """
    try:
        fd = open_folder(root_fd, path)
    except OSError as error:
        if error.errno in _NO_FOLDER:
            return
        raise
    try:
        first: dict[str, str] = {}
        several: dict[str, list[str]] = {}
        for name in os.listdir(fd):
            uid = instance_uid_of(name)
            if uid is not None and (other := first.setdefault(uid, name)) != name:
                several.setdefault(uid, [other]).append(name)
        for names in several.values():
            _remove_older(fd, names)
    finally:
        close_folder(fd)


def _remove_older(fd: int, names: Iterable[str]) -> None:
    files = []
    for name in names:
        with suppress(FileNotFoundError):
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if stat.S_ISREG(status.st_mode):
                files.append((status.st_ctime_ns, status.st_mtime_ns, name))
    for *_, name in sorted(files)[:-1]:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=fd)


def remove_file(root_fd: int, path: bytes, name: str) -> None:
    """Remove a regular file; one that is not there is fine. Raises other OSErrors."""
    fd = open_folder(root_fd, path)
    try:
        with suppress(FileNotFoundError):
            if stat.S_ISREG(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                os.unlink(name, dir_fd=fd)
    finally:
        close_folder(fd)
