"""One folder for each series: its name and the files in it (decision 26).

Folders are claimed on the loop's thread. Any thread that places a file may read and change
`SeriesFolder.files`; no lock is needed, because each access is one dictionary operation.
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
    """The folder of a series, from the first claim until the series is registered."""

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
        """File names of the instances in the folder, by SOP Instance UID."""
        self.listed = False
        """Whether `files` includes the files that existed before this object was created."""
        self.made = False
        """Whether the folder exists on disk."""
        self.sync = FolderSync()
        """Lets threads that place files at the same time share one sync of the folder."""
        self.stored = 0
        """Number of instances stored since this object was created; 1 for a recovered series."""
        self.pending = 0
        """Number of instances that have claimed the folder and are not stored or refused yet."""
        self.differing = 0
        """Number of instances since the latest warning whose attributes lead to another path."""
        self.associations: set[str] = set()
        """Identifiers of open associations that have claimed the folder."""
        self.unregistered: set[str] = set()
        """Identifiers of associations, open or ended, that have stored instances which are not
        registered yet."""
        self.journaled: set[str] = set()
        """Identifiers of open associations whose journal entry for the series is on disk."""
        self.placing: dict[str, deque[Callable[[], None]]] = {}
        """Callbacks of the sinks that wait to place an instance, keyed by the SOP Instance UID that
        a writer thread is placing now. If two files of one instance were placed at the same time,
        each could be taken for the older one and be removed."""

    def may_place(self, sop_instance_uid: str, waiter: Callable[[], None]) -> bool:
        """Return whether the instance can be placed now; if not, `waiter` is called once it can."""
        waiting = self.placing.get(sop_instance_uid)
        if waiting is None:
            return True
        waiting.append(waiter)
        return False

    def placed(self, sop_instance_uid: str) -> None:
        """Call the next waiter, now that an instance of this UID was placed or has failed.

        If it places its file at once, the waiters behind it are called too.
        """
        waiting = self.placing.pop(sop_instance_uid, None)
        if not waiting:
            return
        waiting.popleft()()
        for waiter in waiting:
            if self.may_place(sop_instance_uid, waiter):
                waiter()

    def list_files(self, root_fd: int) -> None:
        """Read which instances the folder holds, so that a repeated instance replaces its older
        file. Raises OSError."""
        for uid, name in list_instances(root_fd, self.path).items():
            # A name that is present already is newer: another thread has just placed the file.
            self.files.setdefault(uid, name)
        self.listed = True

    def replace(self, file_name: str) -> str | None:
        """Record a placed file; return the other file name that its instance had before.

        Returns None if there was none, or if the UID cannot be read from the name.
        """
        uid = instance_uid_of(file_name)
        if uid is None:
            return None
        older = self.files.get(uid)
        self.files[uid] = file_name
        return None if older == file_name else older


class SharedSeriesFolder(SeriesFolder):
    """A folder into which several processes place instances.

    No process knows all files in it, so older files of an instance are removed when the series is
    complete (`store.instance_files.keep_newest`). `files` stays empty.
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
    """The folders of all series that are not registered yet.

    The first instance of a series determines the path of its folder, unless it is refused. Where
    several processes receive, `names` makes them agree on one path; otherwise it is None.
    """

    def __init__(self, names: FolderNames | None = None) -> None:
        self._names = names
        self._folders: dict[SeriesKey, SeriesFolder] = {}
        self._by_association: dict[str, set[SeriesKey]] = {}

    def __len__(self) -> int:
        return len(self._folders)

    def find(self, key: SeriesKey) -> SeriesFolder | None:
        """Return the folder of a series; None if the series has none at present."""
        return self._folders.get(key)

    def claim(self, series: SeriesInfo, association_id: str) -> SeriesFolder:
        """Claim the folder for one instance of `series` and return it; `release` ends the claim."""
        key = series.key
        folder = self._folders.get(key)
        if folder is None or not (folder.stored or folder.pending):
            # If all instances so far have failed, the next one determines the path.
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
        """End the claim of one instance. `stored` is False if it was refused or discarded."""
        folder.pending -= 1
        if stored:
            folder.stored += 1
            folder.unregistered.add(association_id)
            return
        if self._names is not None and not (folder.stored or folder.pending):
            self._names.release(folder.series.key)
        self._forget_if_unused(folder)

    def restore(self, series: SeriesInfo, associations: Iterable[str]) -> None:
        """Continue to use the folder of a series that a crash has interrupted (decision 32).

        `associations` are those that have stored its unregistered instances. If this process has
        received the series in the meantime, the folder remains the one that it uses.
        """
        folder = self._folders.get(series.key)
        if folder is None:
            folder = self._folders[series.key] = SeriesFolder(series)
            folder.stored = 1
        folder.unregistered.update(associations)

    def association_ended(self, association_id: str) -> list[SeriesKey]:
        """End the association; return the series of which it stored no unregistered instance."""
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
        """Record that the instances which `associations` stored of a series are registered.

        The folder is forgotten, so that the next instance determines a new one, unless other
        associations use it.
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
