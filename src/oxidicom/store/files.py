"""The files root, and the steps that write a received instance and give it its final name."""

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

_MAX_FOLDER_REMAKES: Final = 3
"""Number of times that a series folder is made again for one file while another program keeps
removing it."""


class FilesRoot:
    """The open files root, and the objects that all instances stored in it share.

    `files_root` may be a link; no link below it is followed. `clock` returns seconds and
    `min_free_space` is in bytes. `on_bug` is called with each exception that is not expected.
    Raises OSError if the root or its folder of temporary files cannot be opened.
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
        """Close the root and the temporary folder, unless writer threads hang in a storage call."""
        if self.executors.abandoned:
            # A thread whose storage call returns later must not use these descriptor numbers for
            # other files. The process is about to end.
            return
        self.temporary.close()
        os.close(self.root_fd)

    # ---- steps, on any thread ------------------------------------------------------------

    def check_space(self) -> None:
        """Raise InstanceError 0xA700 if fewer than `min_free_space` bytes are free, or OSError."""
        if self.min_free_space:
            space = os.fstatvfs(self.root_fd)
            if space.f_bavail * space.f_frsize < self.min_free_space:
                raise InstanceError(DimseStatus.OUT_OF_RESOURCES, "Too little free space")

    def write(self, part: PartFile, gather: Gather) -> None:
        """Append the bytes of `gather` to a part file and clear `gather`; raises OSError."""
        try:
            part.write(gather)
        except FileNotFoundError:
            # The folder of temporary files was removed. A part file that existed is lost, and its
            # next write or placing fails; one that did not exist yet is created in the new folder.
            self.temporary.make_again()
            part.write(gather)

    def prepare(self, folder: SeriesFolder, association_id: str) -> None:
        """Make the folder of a series and write its journal entry for the association.

        Does only what has not been done yet. Raises OSError.
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
        """Write the rest of the instance, journal its series, and give the file its final name.

        A file that the instance had under another name is removed. Raises OSError, and then leaves
        no new file under the final name, with one exception: if only the sync of the folder failed,
        a file that may have replaced an older one is kept.
        """
        if not (folder.listed and association_id in folder.journaled):
            # Written first: an instance that cannot be written must leave no journal entry.
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
        """Remove a placed file whose instance is going to be refused; return whether that was done.

        The file is kept if it may have replaced one that was acknowledged.
        """
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
        """Remove the file that an instance had under another name; never raises OSError."""
        if isinstance(folder, SharedSeriesFolder):
            return  # another worker may have just placed it; `keep_newest` decides
        # The instance is stored: an older file that remains is no reason to refuse it.
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
        for _ in range(_MAX_FOLDER_REMAKES):
            make_folders(self.root_fd, folder.path, sync=self.fsync)
            if part.place(gather, self.root_fd, folder.path, file_name, sync):
                return
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
