"""The way of one instance to its file: fragments in, a stored file or a refusal out."""

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
from oxidicom.store.write_policy import SLOW_CALL_NS

Begun = tuple[Walker, PartFile, Gather, int]
"""What has come of an instance: read, written, gathered, and the bytes in all."""

SMALL: Final = 16 * 1024
"""Bytes: cheaper to copy than to keep a whole receive buffer for a writer thread."""

QUARANTINED: Final = frozenset({DimseStatus.DATA_SET_DOES_NOT_MATCH, DimseStatus.CANNOT_UNDERSTAND})
"""What a person may want to look at: refused for what it holds, not for our own trouble."""

_OUT_OF_RESOURCES: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE})


def refusal_of(error: BaseException) -> InstanceError:
    """What the sender is told of a failure of ours (decision 21); names of files never show."""
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
    """One instance in reception (ports.InstanceSink).

    Methods named `_…_job` run in an executor, perhaps on a writer thread, one after the other; all
    others on the loop's thread.
    """

    __slots__ = (
        "_association",
        "_began",
        "_broken",
        "_checked",
        "_dropped",
        "_error",
        "_executor",
        "_finished",
        "_gather",
        "_inline",
        "_owner",
        "_part",
        "_reader",
        "_request",
        "_size",
        "_storage",
    )

    def __init__(
        self,
        storage: FilesRoot,
        association: AssociationContext,
        request: StoreRequest,
        owner: SinkOwner,
        begun: Begun | None = None,
    ) -> None:
        self._storage = storage
        self._association = association
        self._request = request
        self._owner = owner
        self._executor = storage.executors.choose()
        self._inline = storage.executors.is_inline(self._executor)
        self._reader: Reader
        self._reader, self._part, self._gather, self._size = begun or self._begin()
        self._error: InstanceError | None = None
        self._broken = False
        """A write has failed, though the loop may not know it yet: the file has a hole."""
        self._checked = False
        self._dropped = False
        self._finished = False

    def _begin(self) -> tuple[Reader, PartFile, Gather, int]:
        request = self._request
        header = file_header(
            request.sop_class_uid,
            request.sop_instance_uid,
            request.transfer_syntax,
            self._association.calling_ae_title,
        )
        part = self._storage.temporary.part_file(header)
        return reader_for(request.encoding), part, Gather(), 0

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
        self._look_again()
        if self._inline:
            self._write_inline(self._gather)
            return True
        gather, self._gather = self._gather, Gather()
        if gather.size <= SMALL:
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

    def _look_again(self) -> None:
        """Once storage is slow, in whosever hands, the rest goes where the next instance goes."""
        executors = self._storage.executors
        if self._inline and not executors.policy.writes_inline:
            self._executor = executors.choose()
            self._inline = executors.is_inline(self._executor)

    def _write_job(self, gather: Gather) -> None:
        self._begin_job()
        self._storage.write(self._part, gather)
        self._broken = False

    def _begin_job(self) -> None:
        """Raises what keeps the instance from being stored; broken until the job has succeeded."""
        if self._broken or self._dropped:
            raise InstanceError(DimseStatus.PROCESSING_FAILURE, "An earlier write failed")
        self._broken = True
        if not self._checked:
            self._checked = True
            self._storage.temporary.retry_removals()
            self._storage.check_space()

    def _written(self, result: None, error: BaseException | None) -> None:
        if error is not None:
            self._fail(error)

    def _written_from(self, buffer: bytearray, result: None, error: BaseException | None) -> None:
        self._written(result, error)
        self._owner.buffer_released(buffer)

    def _observe(self) -> None:
        """Tell the policy, once, if storage calls were slow."""
        slowest_ns = self._part.slowest_ns
        if slowest_ns >= SLOW_CALL_NS:
            self._part.slowest_ns = 0
            self._storage.executors.policy.observe(slowest_ns, self._storage.clock())

    # ---- the end -------------------------------------------------------------------------

    def finish(self, buffer: bytearray) -> bool:
        self._began = self._storage.clock()
        self._finished = True
        self._reader.finish()
        if self._error is not None:
            self._refuse(self._error)
            return True
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
        self._look_again()
        storage = self._storage
        folder = storage.folders.claim(names.series, self._association.association_id)
        if not folder.may_place(names.sop_instance_uid, partial(self._place, folder, names)):
            self._gather.detach()
            return True
        if self._inline and not folder.listed:
            try:
                # First, so that an instance that cannot be written leaves no journal entry behind.
                self._write_job(self._gather)
                storage.prepare(folder, self._association.association_id)
            except Exception as error:
                self._placed(folder, names, None, error)
                return True
            if not folder.listed and storage.executors.policy.is_automatic:
                # Nobody knows how much an earlier reception left there.
                self._leave_loop()
        if self._inline or self._gather.size <= SMALL:
            if not self._inline:
                self._gather.detach()
            self._place(folder, names)
            return True
        self._place(folder, names)
        # Behind it in the same executor, so that it has done with the buffer.
        self._executor.run(_nothing, lambda result, error: self._owner.buffer_released(buffer))
        return False

    def _leave_loop(self) -> None:
        """What remains may take long: a writer thread does it, and needs no receive buffer."""
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
        # Again: a refused instance's may have been let go by another thread since the first write.
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
            self._tell_stored(folder, names)
        folder.placed(names.sop_instance_uid)

    def _tell_stored(self, folder: SeriesFolder, names: InstanceNames) -> None:
        now = self._storage.clock()
        self._storage.reports(
            InstanceStored(
                self._association.association_id,
                folder.series,
                names.sop_instance_uid,
                self._size,
                now - self._began,
                now,
            )
        )
        self._owner.instance_done(StoreOutcome(self._request, DimseStatus.SUCCESS))

    def discard(self) -> None:
        if not self._finished:
            self._finished = True
            self._drop(InstanceError(DimseStatus.PROCESSING_FAILURE, "Discarded"))

    # ---- failure -------------------------------------------------------------------------

    def _unreadable(self) -> InstanceError:
        offending = self._reader.offending
        return InstanceError(
            DimseStatus.CANNOT_UNDERSTAND,
            f"Cannot parse data set: {self._reader.error}"[:64],
            offending if offending >= 0 else None,
        )

    def _fail(self, error: BaseException) -> InstanceError:
        """The first failure decides; the rest of the instance is read and dropped."""
        if self._error is not None:
            return self._error
        if self._storage.on_bug is not None and not isinstance(error, (InstanceError, OSError)):
            self._storage.on_bug(error)
        # Without the frames, which hold this sink and the buffers of its jobs.
        refusal = refusal_of(error).with_traceback(None)
        if self._quarantine_for(refusal) is None:
            self._drop(refusal)
        else:
            self._error = refusal
        return refusal

    def _drop(self, error: InstanceError) -> None:
        self._error = error
        self._dropped = True
        self._gather.clear()
        self._look_again()
        self._executor.run(self._part.discard, ignore)

    def _quarantine_for(self, error: InstanceError) -> Quarantine | None:
        # Only of whole instances: one that a write broke has a hole.
        return self._storage.quarantine if error.status in QUARANTINED and self._finished else None

    def _series_uid(self) -> str | None:
        try:
            return series_uid_of(self._reader, self._association.calling_ae_title)
        except Exception:
            # What broke `_names`, told then, breaks this too.
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
        quarantine = self._quarantine_for(error)
        if quarantine is None:
            self._owner.instance_done(outcome)
            return
        # It may be copied over to another file system.
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
            if not self._broken:
                self._storage.check_space()
                quarantine.keep(self._part, self._gather)
        finally:
            self._part.discard()
