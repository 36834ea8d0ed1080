"""Storing one instance on the general path, from its fragments to a file or a refusal."""

from __future__ import annotations

import errno
import os
from collections import deque
from functools import partial
from typing import Final

from oxidicom._dataset import Walker
from oxidicom._writer import Gather, PartFile
from oxidicom.constants import DimseStatus
from oxidicom.errors import InstanceError
from oxidicom.ports import (
    AssociationContext,
    InstanceRefused,
    InstanceStored,
    SinkOwner,
    StoreOutcome,
    StoreRequest,
)
from oxidicom.store.executors import ignore
from oxidicom.store.files import FilesRoot
from oxidicom.store.folders import SeriesFolder
from oxidicom.store.identity import InstanceNames, read_names, series_uid_of
from oxidicom.store.part10 import file_header
from oxidicom.store.paths import pacs_name_of
from oxidicom.store.quarantine import Quarantine
from oxidicom.store.readers import Reader, reader_for
from oxidicom.store.sink_state import FileState, SinkState, follow
from oxidicom.store.write_policy import SLOW_CALL_NS

Received = tuple[Walker, PartFile, Gather, int, bool]
"""An instance that the fast path has begun: its walker, its part file, the gather of bytes not
written yet, the number of bytes received, and whether the free space was checked."""

MAX_COPIED_BYTES: Final = 16 * 1024
"""Greatest number of bytes that are copied for a writer thread. With more it is cheaper to let the
thread keep the whole receive buffer."""

QUARANTINED: Final = frozenset({DimseStatus.DATA_SET_DOES_NOT_MATCH, DimseStatus.CANNOT_UNDERSTAND})
"""Statuses of refusals that the contents of an instance cause, not this receiver. Such instances go
to the quarantine, where an operator can examine them."""

_OUT_OF_RESOURCES: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE})


def refusal_of(error: BaseException) -> InstanceError:
    """Return the refusal that answers `error` (decision 21); its text contains no file name."""
    if isinstance(error, InstanceError):
        return error
    if isinstance(error, OSError) and error.errno is not None:
        reason = os.strerror(error.errno)
        if error.errno in _OUT_OF_RESOURCES:
            return InstanceError(
                DimseStatus.OUT_OF_RESOURCES, f"Could not write file: {reason}"[:64]
            )
        return InstanceError(DimseStatus.PROCESSING_FAILURE, f"Could not write file: {reason}"[:64])
    return InstanceError(DimseStatus.PROCESSING_FAILURE, f"Bug: {type(error).__name__}"[:64])


def _nothing() -> None:
    pass


class StorageSink:
    """One instance that is being received (ports.InstanceSink).

    Methods named `_…_job`, and `_begin_job`, run one after the other in an executor, which may be a
    writer thread. All other methods run on the loop's thread.
    """

    __slots__ = (
        "_association",
        "_error",
        "_executor",
        "_file",
        "_finished_at",
        "_gather",
        "_inline",
        "_owner",
        "_part",
        "_reader",
        "_request",
        "_size",
        "_state",
        "_storage",
    )

    def __init__(
        self,
        storage: FilesRoot,
        association: AssociationContext,
        request: StoreRequest,
        owner: SinkOwner,
        received: Received | None = None,
    ) -> None:
        self._storage = storage
        self._association = association
        self._request = request
        self._owner = owner
        self._state = SinkState.RECEIVING
        self._file = FileState.UNCHECKED
        self._error: InstanceError | None = None
        self._executor = storage.executors.choose()
        self._inline = storage.executors.is_inline(self._executor)
        self._reader: Reader
        if received is None:
            header = file_header(
                request.sop_class_uid,
                request.sop_instance_uid,
                request.transfer_syntax,
                association.calling_ae_title,
            )
            self._reader = reader_for(request.encoding)
            self._part = storage.temporary.part_file(header)
            self._gather = Gather()
            self._size = 0
        else:
            self._reader, self._part, self._gather, self._size, space_checked = received
            if space_checked:
                self._file = FileState.WHOLE

    def _enter(self, state: SinkState) -> None:
        self._state = follow(self._state, state)

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
        self._follow_policy()
        if self._inline:
            self._write_inline(self._gather)
            return True
        gather, self._gather = self._gather, Gather()
        if gather.size <= MAX_COPIED_BYTES:
            gather.detach()
            self._executor.run(partial(self._write_job, gather), self._written)
            return True
        self._executor.run(partial(self._write_job, gather), partial(self._written_from, buffer))
        return False

    def _write_inline(self, gather: Gather) -> None:
        try:
            self._write_job(gather)
        except Exception as error:
            self._fail(error)
        self._observe()

    def _follow_policy(self) -> None:
        """Choose the executor again if inline writing has ended since it was chosen."""
        executors = self._storage.executors
        if self._inline and not executors.policy.writes_inline:
            self._executor = executors.choose()
            self._inline = executors.is_inline(self._executor)

    def _write_job(self, gather: Gather) -> None:
        self._begin_job()
        self._storage.write(self._part, gather)
        self._file = FileState.WHOLE

    def _begin_job(self) -> None:
        """Mark the file as broken until the job succeeds, and check whether it may run.

        Raises InstanceError if an earlier job has failed, the instance is refused or discarded, or,
        before the first job, too little space is free. Raises OSError.
        """
        before, self._file = self._file, FileState.BROKEN
        abandoned = self._state is SinkState.REFUSED or self._state is SinkState.DISCARDED
        if abandoned or before is FileState.BROKEN:
            raise InstanceError(DimseStatus.PROCESSING_FAILURE, "An earlier write failed")
        if before is FileState.UNCHECKED:
            self._storage.temporary.retry_removals()
            self._storage.check_space()

    def _written(self, result: None, error: BaseException | None) -> None:
        if error is not None:
            self._fail(error)

    def _written_from(self, buffer: bytearray, result: None, error: BaseException | None) -> None:
        self._written(result, error)
        self._owner.buffer_released(buffer)

    def _observe(self) -> None:
        """Report a slow storage call of this instance to the policy; each is reported once."""
        slowest_ns = self._part.slowest_ns
        if slowest_ns >= SLOW_CALL_NS:
            self._part.slowest_ns = 0
            self._storage.executors.policy.observe(slowest_ns, self._storage.clock())

    # ---- the end -------------------------------------------------------------------------

    def finish(self, buffer: bytearray) -> bool:
        self._finished_at = self._storage.clock()
        self._reader.finish()
        if self._error is not None:
            self._refuse(self._error)
            return True
        self._enter(SinkState.STORING)
        try:
            names = self._names()
        except Exception as error:
            self._refuse(self._fail(error))
            return True
        return self._store(names, buffer)

    def _names(self) -> InstanceNames:
        if self._reader.failed:
            raise self._unreadable()
        names = read_names(self._reader, self._association.calling_ae_title)
        if names.sop_class_uid != self._request.sop_class_uid:
            raise InstanceError(
                DimseStatus.DATA_SET_DOES_NOT_MATCH,
                "SOP Class UID differs from the command's",
                0x00080016,
            )
        if names.sop_instance_uid != self._request.sop_instance_uid:
            raise InstanceError(
                DimseStatus.DATA_SET_DOES_NOT_MATCH,
                "SOP Instance UID differs from the command's",
                0x00080018,
            )
        return names

    def _store(self, names: InstanceNames, buffer: bytearray) -> bool:
        self._follow_policy()
        storage = self._storage
        folder = storage.folders.claim(names.series, self._association.association_id)
        if not folder.may_place(names.sop_instance_uid, partial(self._place, folder, names)):
            self._gather.detach()
            return True
        if self._inline and not folder.listed:
            try:
                # Written first: an instance that cannot be written must leave no journal entry.
                self._write_job(self._gather)
                storage.prepare(folder, self._association.association_id)
            except Exception as error:
                self._placed(folder, names, None, error)
                return True
            if not folder.listed and storage.executors.policy.is_automatic:
                # The folder existed, so it may hold any number of files that must be listed.
                self._leave_loop()
        if self._inline or self._gather.size <= MAX_COPIED_BYTES:
            if not self._inline:
                self._gather.detach()
            self._place(folder, names)
            return True
        self._place(folder, names)
        # Queued behind the placing in the same executor: only then is the buffer free.
        self._executor.run(_nothing, lambda result, error: self._owner.buffer_released(buffer))
        return False

    def _leave_loop(self) -> None:
        """Run all further jobs on a writer thread; copy the gathered bytes, to free the buffer."""
        if self._inline:
            self._gather.detach()
            self._executor = self._storage.executors.next_thread()
            self._inline = False

    def _place(self, folder: SeriesFolder, names: InstanceNames) -> None:
        if self._inline:
            try:
                self._place_job(folder, names)
            except Exception as error:
                self._placed(folder, names, None, error)
            else:
                self._placed(folder, names, None, None)
            return
        folder.placing[names.sop_instance_uid] = deque()
        self._executor.run(
            partial(self._place_job, folder, names), partial(self._placed, folder, names)
        )

    def _place_job(self, folder: SeriesFolder, names: InstanceNames) -> None:
        self._begin_job()
        self._storage.place(
            self._part, self._gather, folder, names.file_name, self._association.association_id
        )
        # Not only before the first write: a removal may have failed on another thread since.
        self._storage.temporary.retry_removals()

    def _placed(
        self, folder: SeriesFolder, names: InstanceNames, _: None, error: BaseException | None
    ) -> None:
        self._storage.folders.release(
            folder, self._association.association_id, stored=error is None
        )
        self._observe()
        if error is not None:
            self._refuse(self._fail(error))
        else:
            self._report_stored(folder, names)
        folder.placed(names.sop_instance_uid)

    def _report_stored(self, folder: SeriesFolder, names: InstanceNames) -> None:
        now = self._storage.clock()
        self._storage.reports(
            InstanceStored(
                self._association.association_id,
                folder.series,
                names.sop_instance_uid,
                self._size,
                now - self._finished_at,
                now,
            )
        )
        self._owner.instance_done(StoreOutcome(self._request, DimseStatus.SUCCESS))

    def discard(self) -> None:
        if self._state not in (SinkState.RECEIVING, SinkState.REFUSED):
            return
        self._error = InstanceError(DimseStatus.PROCESSING_FAILURE, "Discarded")
        self._abandon(SinkState.DISCARDED)

    # ---- failure -------------------------------------------------------------------------

    def _unreadable(self) -> InstanceError:
        offending = self._reader.offending
        return InstanceError(
            DimseStatus.CANNOT_UNDERSTAND,
            f"Cannot parse data set: {self._reader.error}"[:64],
            offending if offending >= 0 else None,
        )

    def _fail(self, error: BaseException) -> InstanceError:
        """Refuse the instance for `error`, unless it is refused already; return the refusal.

        Fragments that follow are read but not written.
        """
        if self._error is not None:
            return self._error
        if self._storage.on_bug is not None and not isinstance(error, (InstanceError, OSError)):
            self._storage.on_bug(error)
        # The frames of the traceback would keep this sink and the buffers of its jobs alive.
        self._error = refusal_of(error).with_traceback(None)
        if (
            self._state is SinkState.STORING  # only a complete instance is quarantined
            and self._storage.quarantine is not None
            and self._error.status in QUARANTINED
        ):
            self._enter(SinkState.QUARANTINING)
        else:
            self._abandon(SinkState.REFUSED)
        return self._error

    def _abandon(self, state: SinkState) -> None:
        """Enter `state` and remove the temporary file; later jobs do not write to it."""
        self._enter(state)
        self._gather.clear()
        self._follow_policy()
        self._executor.run(self._part.discard, self._discarded)

    def _discarded(self, result: None, error: BaseException | None) -> None:
        # A removal that failed on a thread may be noted only after the next instance's retries.
        if self._storage.temporary.unremoved:
            self._executor.run(self._storage.temporary.retry_removals, ignore)

    def _series_uid(self) -> str | None:
        try:
            return series_uid_of(self._reader, self._association.calling_ae_title)
        except Exception:
            # The same bug has been raised in `_names` and reported there.
            return None

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
        quarantine = storage.quarantine
        if self._state is not SinkState.QUARANTINING or quarantine is None:
            self._owner.instance_done(outcome)
            return
        # Not on the loop's thread: the file may be copied to another file system.
        if self._inline:
            self._leave_loop()
        else:
            self._gather.detach()
        self._executor.run(
            partial(self._quarantine_job, quarantine),
            lambda result, failure: self._owner.instance_done(outcome),
        )

    def _quarantine_job(self, quarantine: Quarantine) -> None:
        try:
            if self._file is not FileState.BROKEN:
                self._storage.check_space()
                quarantine.keep(self._part, self._gather)
        finally:
            self._part.discard()
