"""One folder for each series: its name and the files in it (decision 26).

Folders are claimed on the loop's thread. The files of a folder are listed and changed by any thread
that places a file; each of these steps is one dictionary operation.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable

from oxidicom._group_sync import FolderSync
from oxidicom.logevents import event
from oxidicom.ports import FolderNames, SeriesInfo, SeriesKey
from oxidicom.store.instance_files import instance_uid_of, list_instances

logger = logging.getLogger("oxidicom.store")


class SeriesFolder:
    """The folder of a series, from its first instance until the series is registered."""

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
        """Path relative to the files root."""
        self.files: dict[str, str] = {}
        """File name of each SOP Instance UID in the folder."""
        self.listed = False
        """Whether `files` includes what lay in the folder before this object was made."""
        self.made = False
        """Whether the folder has been made on disk."""
        self.sync = FolderSync()
        """Shared by the threads that place files into the folder and sync it."""
        self.stored = 0
        """Instances stored."""
        self.pending = 0
        """Instances that have claimed the folder and are neither stored nor refused yet."""
        self.differing = 0
        """Instances since the latest warning whose attributes lead to another folder name."""
        self.associations: set[str] = set()
        """Open associations that have claimed the folder."""
        self.unregistered: set[str] = set()
        """Associations, open or not, that have stored instances since the latest registration."""
        self.journaled: set[str] = set()
        """Open associations whose journal entry for the series is on disk."""
        self.placing: dict[str, deque[Callable[[], None]]] = {}
        """SOP Instance UIDs that writer threads are placing, each with the callbacks of those that
        wait for it: two files of one instance, placed at once, could each be taken for the older
        one and be removed."""

    def may_place(self, sop_instance_uid: str, waiter: Callable[[], None]) -> bool:
        """Return whether the instance can be placed now. If not, `waiter` is called later."""
        waiting = self.placing.get(sop_instance_uid)
        if waiting is None:
            return True
        waiting.append(waiter)
        return False

    def placed(self, sop_instance_uid: str) -> None:
        """Let the next waiter proceed, after an instance of this UID was placed or has failed."""
        waiting = self.placing.pop(sop_instance_uid, None)
        if not waiting:
            return
        waiting.popleft()()
        for waiter in waiting:
            if self.may_place(sop_instance_uid, waiter):
                waiter()

    def list_files(self, root_fd: int) -> None:
        """Read which instances lie in the folder already, so that a repeated one replaces its older
        file. Raises OSError."""
        for uid, name in list_instances(root_fd, self.path).items():
            # A file that another thread has placed in the meantime is the newer one.
            self.files.setdefault(uid, name)
        self.listed = True

    def replace(self, file_name: str) -> str | None:
        """Enter a placed file; return the older name of its instance's file, if it differs."""
        uid = instance_uid_of(file_name)
        if uid is None:
            return None
        older = self.files.get(uid)
        self.files[uid] = file_name
        return None if older == file_name else older


class SharedSeriesFolder(SeriesFolder):
    """A folder that several processes put instances into.

    None of them knows all files in it, so older files of an instance are removed when the series is
    complete (`store.instance_files.keep_newest`).
    """

    __slots__ = ()

    def __init__(self, series: SeriesInfo) -> None:
        super().__init__(series)
        self.listed = True

    def list_files(self, root_fd: int) -> None:
        self.listed = True

    def replace(self, file_name: str) -> str | None:
        return None


class SeriesFolders:
    """The folders of all open series. The first stored instance of a series names its folder.

    Where several processes receive, `names` tells the name that the first of them gave.
    """

    def __init__(self, names: FolderNames | None = None) -> None:
        self._names = names
        self._folders: dict[SeriesKey, SeriesFolder] = {}
        self._by_association: dict[str, set[SeriesKey]] = {}

    def __len__(self) -> int:
        return len(self._folders)

    def find(self, key: SeriesKey) -> SeriesFolder | None:
        """Return the folder of a series that is open."""
        return self._folders.get(key)

    def claim(self, series: SeriesInfo, association_id: str) -> SeriesFolder:
        """Return the folder for an instance of `series`; `release` ends the claim."""
        key = series.key
        folder = self._folders.get(key)
        if folder is None or not (folder.stored or folder.pending):
            # Instances that all failed do not name the folder of those that follow.
            folder = self._folders[key] = self._new_folder(series)
        if folder.series is not series and folder.series.path != series.path:
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

    def release(self, folder: SeriesFolder, association_id: str, *, stored: bool) -> None:
        """End the claim of one instance, which was stored or has failed."""
        folder.pending -= 1
        if stored:
            folder.stored += 1
            folder.unregistered.add(association_id)
            return
        if self._names is not None and not (folder.stored or folder.pending):
            self._names.release(folder.series.key)
        self._forget_if_unused(folder)

    def restore(self, series: SeriesInfo, associations: Iterable[str]) -> None:
        """Continue a series that a crash interrupted, in its folder (decision 32).

        A series that this process has begun in the meantime keeps its folder.
        """
        folder = self._folders.get(series.key)
        if folder is None:
            folder = self._folders[series.key] = SeriesFolder(series)
            folder.stored = 1
        folder.unregistered.update(associations)

    def association_ended(self, association_id: str) -> list[SeriesKey]:
        """Return the series that the association has claimed and stored no instance of."""
        without_instances = []
        for key in self._by_association.pop(association_id, ()):
            folder = self._folders.get(key)
            if folder is None or association_id not in folder.unregistered:
                without_instances.append(key)
            if folder is not None:
                folder.associations.discard(association_id)
                folder.journaled.discard(association_id)
                self._warn_of_differing(folder)
                self._forget_if_unused(folder)
        return without_instances

    def completed(self, key: SeriesKey, associations: Iterable[str]) -> None:
        """Take note that what `associations` stored of a series is registered.

        The next instance begins a new session of the series, unless other associations have carried
        it in the meantime.
        """
        folder = self._folders.get(key)
        if folder is not None:
            folder.unregistered.difference_update(associations)
            self._forget_if_unused(folder)

    def _forget_if_unused(self, folder: SeriesFolder) -> None:
        key = folder.series.key
        unused = not (folder.associations or folder.unregistered or folder.pending)
        if unused and self._folders.get(key) is folder:
            del self._folders[key]
            if self._names is not None and folder.stored:
                self._names.release(key)

    def _warn_of_differing(self, folder: SeriesFolder) -> None:
        if folder.differing:
            event(
                logger,
                logging.WARNING,
                "instances with another patient or study than their series; stored in its folder",
                SeriesInstanceUID=folder.series.series_instance_uid,
                instances=folder.differing,
            )
            folder.differing = 0
