"""The way of one instance to its file: fragments in, a stored file or a refusal out."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from oxidicom._writer import Gather, PartFile
from oxidicom.constants import Status
from oxidicom.errors import InstanceError
from oxidicom.ports import (
    AssociationContext,
    InstanceRefused,
    InstanceStored,
    Reports,
    SeriesJournal,
    SinkOwner,
    StoreOutcome,
    StoreRequest,
)
from oxidicom.store.folders import (
    SeriesFolder,
    SeriesFolders,
    instance_uid_of,
    list_instances,
    make_folders,
    remove_file,
)
from oxidicom.store.names import InstanceNames, read_names, series_uid_of
from oxidicom.store.naming import pacs_name_of
from oxidicom.store.part10 import file_header
from oxidicom.store.quarantine import Quarantine
from oxidicom.store.reading import reader_for
from oxidicom.store.temporary import TemporaryFolder
from oxidicom.store.writing import SLOW_NS, Writers

SMALL: Final = 16 * 1024
"""Bytes: cheaper to copy than to keep a whole receive buffer for a writer thread."""

QUARANTINED: Final = frozenset({Status.DATA_SET_DOES_NOT_MATCH, Status.CANNOT_UNDERSTAND})
"""What a person may want to look at: refused for what it holds, not for our own trouble."""

_OUT_OF_RESOURCES: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE})


def refusal_of(error: BaseException) -> InstanceError:
    """What the sender is told of a failure of ours (decision 21); names of files never show."""
    if isinstance(error, InstanceError):
        return error
    if isinstance(error, OSError) and error.errno is not None:
        reason = os.strerror(error.errno)
        if error.errno in _OUT_OF_RESOURCES:
            return InstanceError(Status.OUT_OF_RESOURCES, f"Could not write file: {reason}"[:64])
        return InstanceError(Status.PROCESSING_FAILURE, f"Could not write file: {reason}"[:64])
    return InstanceError(Status.PROCESSING_FAILURE, f"Bug: {type(error).__name__}"[:64])


def _nothing() -> None:
    pass


class Storage:
    """The files root, and all that is needed to put instances into it.

    `files_root` may be a link; nothing below it is followed if it is one. Raises OSError where
    the root or its folder of temporary files cannot be opened.
    """

    def __init__(
        self,
        files_root: Path,
        *,
        writers: Writers,
        journal: SeriesJournal,
        reports: Reports,
        clock: Callable[[], float],
        fsync: bool = False,
        min_free_space: int = 0,
        quarantine: Quarantine | None = None,
        on_bug: Callable[[BaseException], None] | None = None,
    ) -> None:
        self.root_fd = os.open(files_root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.temporary = TemporaryFolder(self.root_fd)
        self.folders = SeriesFolders()
        self.writers = writers
        self.journal = journal
        self.reports = reports
        self.clock = clock
        self.fsync = fsync
        self.min_free_space = min_free_space
        self.quarantine = quarantine
        self.on_bug = on_bug

    def begin(
        self, association: AssociationContext, request: StoreRequest, owner: SinkOwner
    ) -> StorageSink:
        return StorageSink(self, association, request, owner)

    def association_ended(self, association_id: str) -> None:
        self.folders.association_ended(association_id)

    def close(self) -> None:
        self.temporary.close()
        os.close(self.root_fd)

    def check_space(self) -> None:
        """Raises InstanceError 0xA700 when less than `min_free_space` is left, OSError."""
        if self.min_free_space:
            space = os.fstatvfs(self.root_fd)
            if space.f_bavail * space.f_frsize < self.min_free_space:
                raise InstanceError(Status.OUT_OF_RESOURCES, "Too little free space")

    def place(
        self, part: PartFile, gather: Gather, folder: SeriesFolder, names: InstanceNames, association_id: str
    ) -> None:
        """Write the rest, journal the series, give the file its name; on any thread.

        Raises OSError, and then no file stands under the final name that was not there before.
        """
        if association_id not in folder.journaled:
            self.journal.enter(association_id, folder.series)
            folder.journaled.add(association_id)
        file_name = names.file_name.encode()
        while not part.place(gather, self.root_fd, folder.path, file_name, self.fsync):
            make_folders(self.root_fd, folder.path, self.fsync)
        if not folder.listed:
            # What an earlier reception left here: a repeat of it replaces it.
            folder.files = list_instances(self.root_fd, folder.path) | folder.files
            folder.listed = True
        uid = instance_uid_of(names.file_name)
        if uid is not None:
            older = folder.files.get(uid)
            folder.files[uid] = names.file_name
            if older is not None and older != names.file_name:
                remove_file(self.root_fd, folder.path, older)


class StorageSink:
    """One instance in reception (ports.InstanceSink)."""

    __slots__ = (
        "_association",
        "_began",
        "_broken",
        "_error",
        "_finished",
        "_gather",
        "_inline",
        "_lane",
        "_owner",
        "_part",
        "_reader",
        "_request",
        "_size",
        "_storage",
        "_touched",
    )

    def __init__(
        self, storage: Storage, association: AssociationContext, request: StoreRequest, owner: SinkOwner
    ) -> None:
        self._storage = storage
        self._association = association
        self._request = request
        self._owner = owner
        self._lane = storage.writers.lane()
        self._inline = storage.writers.is_inline(self._lane)
        self._reader = reader_for(request.encoding)
        self._part = storage.temporary.part_file(
            file_header(
                request.sop_class_uid,
                request.sop_instance_uid,
                request.transfer_syntax,
                association.calling_ae_title,
            )
        )
        self._gather = Gather()
        self._size = 0
        self._error: InstanceError | None = None
        self._broken: Exception | None = None
        self._touched = False
        self._finished = False

    # ---- fragments -----------------------------------------------------------------------

    def feed(self, buffer: bytearray, start: int, stop: int) -> None:
        reader = self._reader
        if not reader.asleep:
            reader.feed(buffer, start, stop)
        self._size += stop - start
        if self._error is None:
            self._gather.add(buffer, start, stop)

    def flush(self, buffer: bytearray) -> bool:
        if self._error is None and self._reader.failed and self._storage.quarantine is None:
            self._fail(self._unreadable())
        if self._error is not None or not self._gather:
            self._gather.clear()
            return True
        if self._inline:
            self._write_inline(self._gather)
            return True
        gather, self._gather = self._gather, Gather()
        if gather.size <= SMALL:
            gather.detach()
            self._lane.run(partial(self._write_job, gather), self._written)
            return True
        self._lane.run(partial(self._write_job, gather), partial(self._written_from, buffer))
        return False

    def _write_inline(self, gather: Gather) -> None:
        try:
            self._write_job(gather)
        except Exception as error:
            self._fail(error)
        if self._part.slowest_ns >= SLOW_NS:
            self._storage.writers.policy.observe(self._part.slowest_ns, self._storage.clock())
            # The rest of this instance goes where the next one goes.
            self._lane = self._storage.writers.lane()
            self._inline = self._storage.writers.is_inline(self._lane)

    def _write_job(self, gather: Gather) -> None:
        self._before_writing()
        try:
            try:
                self._part.write(gather)
            except FileNotFoundError:
                # Somebody removed the folder of temporary files; nothing of this part exists yet.
                self._storage.temporary.make_again()
                self._part.write(gather)
        except Exception as error:
            self._broken = error
            raise

    def _before_writing(self) -> None:
        """Raises what stopped an earlier write: the loop may not have heard of it yet."""
        if self._broken is not None:
            raise self._broken
        if not self._touched:
            self._touched = True
            self._storage.check_space()

    def _written(self, result: None, error: BaseException | None) -> None:
        if error is not None and self._error is None:
            self._fail(error)

    def _written_from(self, buffer: bytearray, result: None, error: BaseException | None) -> None:
        self._written(result, error)
        self._owner.buffer_released(buffer)

    # ---- the end -------------------------------------------------------------------------

    def finish(self, buffer: bytearray) -> bool:
        kept = False
        if not self._inline and self._error is None:
            # The last job reads what `_gather` holds after this returns.
            kept = self._gather.size > SMALL
            if not kept:
                self._gather.detach()
        self._finish(buffer if kept else None)
        return not kept

    def _finish(self, kept: bytearray | None) -> None:
        self._began = self._storage.clock()
        self._finished = True
        self._reader.finish()
        if self._error is not None:
            self._refuse(self._error)
        else:
            try:
                names = self._names()
            except Exception as error:
                self._refuse(self._fail(error))
            else:
                self._place(names)
        if kept is not None:
            # Behind the jobs above in the same lane, so that they have done with the buffer.
            self._lane.run(_nothing, lambda result, error: self._owner.buffer_released(kept))

    def _names(self) -> InstanceNames:
        if self._reader.failed:
            raise self._unreadable()
        names = read_names(self._reader, self._association.calling_ae_title)
        if names.sop_class_uid != self._request.sop_class_uid:
            raise InstanceError(
                Status.DATA_SET_DOES_NOT_MATCH, "SOP Class UID differs from the command's", 0x00080016
            )
        if names.sop_instance_uid != self._request.sop_instance_uid:
            raise InstanceError(
                Status.DATA_SET_DOES_NOT_MATCH, "SOP Instance UID differs from the command's", 0x00080018
            )
        return names

    def _place(self, names: InstanceNames) -> None:
        association_id = self._association.association_id
        folder = self._storage.folders.claim(names.series, association_id)
        if self._inline:
            try:
                self._place_job(folder, names)
            except Exception as error:
                self._placed(folder, names, None, error)
            else:
                self._placed(folder, names, None, None)
            return
        self._lane.run(
            partial(self._place_job, folder, names), partial(self._placed, folder, names)
        )

    def _place_job(self, folder: SeriesFolder, names: InstanceNames) -> None:
        self._before_writing()
        storage = self._storage
        try:
            storage.place(self._part, self._gather, folder, names, self._association.association_id)
        except FileNotFoundError:
            storage.temporary.make_again()
            storage.place(self._part, self._gather, folder, names, self._association.association_id)

    def _placed(
        self, folder: SeriesFolder, names: InstanceNames, _: None, error: BaseException | None
    ) -> None:
        folder.pending -= 1
        if error is not None:
            self._refuse(self._fail(error))
            return
        folder.stored += 1
        storage = self._storage
        now = storage.clock()
        if self._part.slowest_ns >= SLOW_NS:
            storage.writers.policy.observe(self._part.slowest_ns, now)
        storage.reports(
            InstanceStored(
                self._association.association_id,
                folder.series,
                names.sop_instance_uid,
                self._size,
                now - self._began,
                now,
            )
        )
        self._owner.instance_done(StoreOutcome(self._request, Status.SUCCESS))

    def discard(self) -> None:
        if not self._finished:
            self._error = InstanceError(Status.PROCESSING_FAILURE, "Discarded")
            self._gather.clear()
            self._lane.run(self._part.discard, lambda result, error: None)

    # ---- failure -------------------------------------------------------------------------

    def _unreadable(self) -> InstanceError:
        offending = self._reader.offending
        return InstanceError(
            Status.CANNOT_UNDERSTAND,
            f"Cannot parse data set: {self._reader.error}"[:64],
            offending if offending >= 0 else None,
        )

    def _fail(self, error: BaseException) -> InstanceError:
        """The first failure decides; the rest of the instance is read and dropped."""
        self._error = refusal_of(error)
        if self._storage.on_bug is not None and not isinstance(error, (InstanceError, OSError)):
            self._storage.on_bug(error)
        keep = self._storage.quarantine is not None and self._error.status in QUARANTINED
        if not keep:
            self._gather.clear()
            self._lane.run(self._part.discard, lambda result, error: None)
        return self._error

    def _series_uid(self) -> str | None:
        return series_uid_of(self._reader, self._association.calling_ae_title)

    def _refuse(self, error: InstanceError) -> None:
        storage = self._storage
        storage.reports(
            InstanceRefused(
                self._association.association_id,
                self._association.calling_ae_title,
                pacs_name_of(self._association.calling_ae_title),
                self._series_uid(),
                error.status,
                error.notice,
                storage.clock(),
            )
        )
        outcome = StoreOutcome(self._request, error.status, error.comment, error.offending)
        if storage.quarantine is not None and error.status in QUARANTINED:
            keep = partial(storage.quarantine.keep, self._part, self._gather)
            self._lane.run(keep, lambda result, failure: self._owner.instance_done(outcome))
        else:
            self._owner.instance_done(outcome)
