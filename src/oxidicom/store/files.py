"""The files root, and the steps by which a received instance comes to its final name there."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from oxidicom._writer import Gather, PartFile
from oxidicom.below_root import make_folders, open_root, remove_file
from oxidicom.constants import DimseStatus
from oxidicom.errors import InstanceError
from oxidicom.ports import Reports, SeriesJournal
from oxidicom.store.executors import StorageExecutors
from oxidicom.store.folders import (
    SeriesFolder,
    SeriesFolders,
    SharedSeriesFolder,
)
from oxidicom.store.instance_files import instance_uid_of
from oxidicom.store.quarantine import Quarantine
from oxidicom.store.temporary import TemporaryFolder

_TRIES: Final = 3
"""Folders made anew for one file: whoever removes them again at once gets an error."""


class FilesRoot:
    """The files root, and all that instances on their way into it share.

    `files_root` may be a link; nothing below it is followed if it is one. Raises OSError where
    the root or its folder of temporary files cannot be opened.
    """

    def __init__(
        self,
        files_root: Path,
        *,
        executors: StorageExecutors,
        journal: SeriesJournal,
        reports: Reports,
        clock: Callable[[], float],
        fsync: bool = False,
        min_free_space: int = 0,
        quarantine: Quarantine | None = None,
        on_bug: Callable[[BaseException], None] | None = None,
    ) -> None:
        self.root_fd = open_root(files_root)
        try:
            self.temporary = TemporaryFolder(self.root_fd)
        except BaseException:
            os.close(self.root_fd)
            raise
        self.folders = SeriesFolders()
        self.executors = executors
        self.journal = journal
        self.reports = reports
        self.clock = clock
        self.fsync = fsync
        self.min_free_space = min_free_space
        self.quarantine = quarantine
        self.on_bug = on_bug

    def close(self) -> None:
        if self.executors.abandoned:
            # A thread that comes back from hung storage must not meet other files under these
            # numbers. The process is about to end.
            return
        self.temporary.close()
        os.close(self.root_fd)

    # ---- steps, on whichever thread ------------------------------------------------------

    def check_space(self) -> None:
        """Raises InstanceError 0xA700 when less than `min_free_space` is left, OSError."""
        if self.min_free_space:
            space = os.fstatvfs(self.root_fd)
            if space.f_bavail * space.f_frsize < self.min_free_space:
                raise InstanceError(DimseStatus.OUT_OF_RESOURCES, "Too little free space")

    def write(self, part: PartFile, gather: Gather) -> None:
        """Append to a temporary file; raises OSError."""
        try:
            part.write(gather)
        except FileNotFoundError:
            # Somebody removed the folder of temporary files. A file that was begun in it is lost,
            # and the next write or the placing fails; one that was not is begun anew.
            self.temporary.make_again()
            part.write(gather)

    def prepare(self, folder: SeriesFolder, association_id: str) -> None:
        """Once for each association and series: its folder is made, its journal entry on disk.

        Raises OSError.
        """
        if not folder.made:
            if make_folders(self.root_fd, folder.path, sync=self.fsync):
                folder.listed = True
            folder.made = True
        if association_id not in folder.journaled:
            self.journal.enter(association_id, folder.series)
            folder.journaled.add(association_id)

    def place(
        self,
        part: PartFile,
        gather: Gather,
        folder: SeriesFolder,
        file_name: str,
        association_id: str,
    ) -> None:
        """Write the rest, journal the series, give the file its name.

        Raises OSError, and then no file stands under the final name that was not there before; but
        one that may have replaced another stays where only the sync of the folder failed.
        """
        if not (folder.listed and association_id in folder.journaled):
            # In this order, so that an instance that cannot be stored leaves no entry behind.
            self.write(part, gather)
            began = time.monotonic_ns()
            self.prepare(folder, association_id)
            if not folder.listed:
                folder.list_files(self.root_fd)
            part.slowest_ns = max(part.slowest_ns, time.monotonic_ns() - began)
        try:
            self._rename(part, gather, folder, file_name.encode())
        except OSError:
            if part.unsynced and not self._take_back(folder, file_name):
                folder.listed = False
            raise
        older = folder.replace(file_name)
        if older is not None:
            self.remove_older(folder, older)

    def _take_back(self, folder: SeriesFolder, file_name: str) -> bool:
        """A file that its sender is told we have not; False: it may be all that is left of one that
        was acknowledged, or cannot be removed."""
        uid = instance_uid_of(file_name)
        if (
            uid is None
            or isinstance(folder, SharedSeriesFolder)
            or folder.files.get(uid) == file_name
        ):
            return False
        try:
            remove_file(self.root_fd, folder.path, os.fsencode(file_name))
        except OSError:
            return False
        return True

    def remove_older(self, folder: SeriesFolder, file_name: str) -> None:
        """The file that an instance had under another number goes."""
        if isinstance(folder, SharedSeriesFolder):
            return  # another worker may just have placed it: the notifier knows the newest
        # The instance is stored: a stale file that stays is no reason to say otherwise.
        with suppress(OSError):
            remove_file(self.root_fd, folder.path, os.fsencode(file_name))

    def _rename(
        self, part: PartFile, gather: Gather, folder: SeriesFolder, file_name: bytes
    ) -> None:
        sync = folder.sync if self.fsync else None
        try:
            if part.place(gather, self.root_fd, folder.path, file_name, sync):
                return
        except FileNotFoundError:
            self.temporary.make_again()
        for _ in range(_TRIES):
            make_folders(self.root_fd, folder.path, sync=self.fsync)
            if part.place(gather, self.root_fd, folder.path, file_name, sync):
                return
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
