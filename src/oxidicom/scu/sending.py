"""Sends many files over several associations, tries failed files again, and counts the results.

The first round sends all files. Each further round sends, over new associations, those that failed
in the round before. Their paths are kept in a temporary file in between, so that memory does not
grow with the number of failures.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Final

from oxidicom.backoff import Backoff
from oxidicom.errors import InternalError, OxidicomError
from oxidicom.scu.association import Association
from oxidicom.scu.connection import Peer
from oxidicom.scu.errors import Fault, ScuError
from oxidicom.scu.files import Candidate, NotDicomError, recognize
from oxidicom.scu.send_queue import Item, SendQueue
from oxidicom.thread_names import NamedThread
from oxidicom.wire.requestor import Context, is_stored, status_text

FIRST_RETRY_PAUSE_S: Final = 0.5
"""Seconds of the first pause before a thread associates again; doubled after each failure."""

_MAX_RETRY_PAUSE_S: Final = 30.0
"""Greatest pause in seconds before a thread associates again."""

_MAX_ABORTS: Final = 3
"""Number of associations lost in a row while sending that a thread tolerates even if `retries` is
lower, because one instance that makes the peer abort must not keep the others from being sent."""

OnFailure = Callable[[Path, str], None]
"""Function that is called with the path of each file that was not stored and will not be tried
again, and the reason. It is called on any thread, but never twice at the same time."""


class SendTally:
    """The results so far. Any thread may read them at any time."""

    def __init__(self) -> None:
        self.examined = 0
        """Number of files that were found and examined, DICOM or not."""
        self.skipped = 0
        """Number of files from folders and patterns that are not DICOM."""
        self.stored = 0
        """Number of instances that the peer has stored."""
        self.warned = 0
        """Number of stored instances whose status is a warning."""
        self.failed = 0
        """Number of files that were not stored and will not be tried again."""
        self.bytes = 0
        """Size of the stored data sets in bytes."""
        self.associations = 0
        """Number of associations that were established."""
        self.rounds = 0
        """Number of rounds that have begun."""
        self.statuses: Counter[str] = Counter()
        """Number of responses with each status, those of repeated attempts included."""
        self.reasons: Counter[str] = Counter()
        """Number of failed files for each reason."""


class Sending:
    """One run of sending. Call `start`, then `wait` until it returns True; `stop` ends it early."""

    def __init__(
        self,
        peer: Peer,
        candidates: Iterable[Candidate],
        failed: OnFailure,
        *,
        associations: int,
        retries: int,
        first_pause: float = FIRST_RETRY_PAUSE_S,
    ) -> None:
        self.tally = SendTally()
        self._peer = peer
        self._candidates = candidates
        self._failed = failed
        self._associations = associations
        self._retries = retries
        self._first_pause = first_pause
        self._lock = threading.Lock()
        self._spool: IO[str] | None = None
        """Temporary file with the failures that the next round tries again, one per line; None in
        the last round."""
        self._stopped = threading.Event()
        self._end_reason = ""
        self._skip_rest = False
        self._queue = SendQueue()
        self._working = 0
        """Number of threads of this round that have not ended."""
        self._internal_error: BaseException | None = None
        self._ended = threading.Event()
        self._rounds_thread = NamedThread(target=self._run_rounds, name="ox-send", daemon=True)

    def start(self) -> None:
        """Start the run on threads of its own, and return at once."""
        self._rounds_thread.start()

    def wait(self, seconds: float) -> bool:
        """Wait up to `seconds`; return True if the run has ended.

        Raises InternalError if a thread failed, or the OxidicomError that `failed` raised.
        """
        # After a KeyboardInterrupt Thread.join may report a running thread as ended.
        if not self._ended.wait(seconds):
            return False
        if isinstance(self._internal_error, OxidicomError):
            raise self._internal_error
        if self._internal_error is not None:
            raise InternalError("sending ended too early") from self._internal_error
        return True

    def stop(self, reason: str, *, skip_rest: bool) -> None:
        """End the run after the instances in progress; `reason` becomes `end_reason`.

        The remaining files are found and count as failed; with `skip_rest` they are not even found.
        """
        self._skip_rest = skip_rest
        self._end(reason)

    @property
    def end_reason(self) -> str:
        """Why the run was ended early; an empty text if it was not."""
        return self._end_reason

    # ---- rounds ------------------------------------------------------------------------------

    def _run_rounds(self) -> None:
        try:
            with contextlib.ExitStack() as stack:
                source: Iterable[Candidate] = self._candidates
                for number in range(self._retries + 1):
                    last = number == self._retries
                    spool = self._spool = None if last else stack.enter_context(_temporary())
                    self.tally.rounds += 1
                    self._round(source, first=number == 0)
                    if spool is None or not spool.tell():
                        break
                    spool.seek(0)
                    if self._stopped.is_set():
                        for path, reason in _spooled(spool):
                            self._fail(path, reason)
                        break
                    source = (Candidate(path, True) for path, _ in _spooled(spool))
        except BaseException as error:
            self._internal_error = error
        finally:
            self._ended.set()

    def _round(self, source: Iterable[Candidate], *, first: bool) -> None:
        queue = self._queue = SendQueue()
        self._working = self._associations
        workers = [
            NamedThread(target=self._work, args=(queue,), name=f"ox-send-{i}", daemon=True)
            for i in range(self._associations)
        ]
        for worker in workers:
            worker.start()
        try:
            for candidate in source:
                if self._stopped.is_set() and self._skip_rest:
                    break
                item = self._recognized(candidate, first=first)
                if item is None:
                    continue
                if self._stopped.is_set() or not queue.put(item):
                    self._fail(candidate.path, self._end_reason)
        finally:
            queue.close()
        for worker in workers:
            worker.join()
        while (item := queue.take()) is not None:  # items left by threads that gave up
            self._fail(item.data_set.path, self._end_reason)
            queue.finish()

    def _recognized(self, candidate: Candidate, *, first: bool) -> Item | None:
        self.tally.examined += first
        try:
            return Item(*recognize(candidate.path))
        except NotDicomError as error:
            if candidate.named:
                self._fail(candidate.path, str(error))
            else:
                self.tally.skipped += 1
        except OSError as error:
            self._fail(candidate.path, f"cannot be read: {error.strerror}")
        return None

    # ---- an association's thread ---------------------------------------------------------------

    def _work(self, queue: SendQueue) -> None:
        current = _ThreadAssociation(self._peer, Backoff(self._first_pause, _MAX_RETRY_PAUSE_S))
        try:
            while not self._stopped.is_set() and not current.given_up:
                item = queue.take(current.proposed)
                if item is None:
                    # Release before waiting, because some peers accept one association only.
                    current.release()
                    if queue.wait_for_returns():
                        continue
                    break
                if not self._is_associated(item, current, queue):
                    queue.put_back(item)
                else:
                    self._send(item, current)
                    queue.finish()
            current.release()
        except BaseException as error:
            self._internal_error = error
            self._end("an internal error of oxidicom")
            current.abort()
        with self._lock:
            self._working -= 1
            last = self._working == 0
        if last and current.given_up:
            self._end(current.given_up)

    def _is_associated(self, item: Item, current: _ThreadAssociation, queue: SendQueue) -> bool:
        """Return whether `current` can send the item; associate again first if that is necessary.

        If associating fails, pause or give up and return False.
        """
        if item.data_set.context in current.proposed:
            return True
        try:
            current.associate(queue.contexts(item.data_set.context))
        except ScuError as error:
            self._pause_or_give_up(current, error)
            return False
        with self._lock:
            self.tally.associations += 1
        return True

    def _send(self, item: Item, current: _ThreadAssociation) -> None:
        assert current.association is not None
        try:
            response, size = current.association.store(item.data_set)
        except ScuError as error:
            self._fail_for_now(item, str(error), permanent=error.permanent)
            if error.fatal:
                current.abort()
                if error.fault is not Fault.FILE:
                    self._pause_or_give_up(current, error, at_least=_MAX_ABORTS)
            return
        current.errors_in_a_row = 0
        current.backoff.reset()
        stored = is_stored(response.status)
        with self._lock:
            self.tally.statuses[status_text(response.status)] += 1
            if stored:
                self.tally.stored += 1
                self.tally.warned += response.status != 0
                self.tally.bytes += size
        if not stored:
            self._fail_for_now(item, f"status {status_text(response.status)}")

    def _pause_or_give_up(
        self, current: _ThreadAssociation, error: ScuError, *, at_least: int = 0
    ) -> None:
        """Pause before the next attempt, or give up after a permanent error or too many in a row.

        `at_least` is the number of errors in a row that are tolerated even with fewer retries.
        """
        current.errors_in_a_row += 1
        if error.permanent or current.errors_in_a_row > max(self._retries, at_least):
            current.given_up = str(error)
            return
        self._stopped.wait(current.backoff.failed())

    # ---- outcomes ------------------------------------------------------------------------------

    def _fail_for_now(self, item: Item, reason: str, *, permanent: bool = False) -> None:
        spool = self._spool
        if spool is None or permanent or self._stopped.is_set():
            self._fail(item.data_set.path, reason)
            return
        with self._lock:
            spool.write(json.dumps((str(item.data_set.path), reason)) + "\n")

    def _fail(self, path: Path, reason: str) -> None:
        with self._lock:
            self.tally.failed += 1
            self.tally.reasons[reason] += 1
            self._failed(path, reason)

    def _end(self, reason: str) -> None:
        with self._lock:
            self._end_reason = self._end_reason or reason
        self._stopped.set()
        self._queue.close(abandon=True)


class _ThreadAssociation:
    """The association that one thread has open, if any, and the failures of that thread."""

    def __init__(self, peer: Peer, backoff: Backoff) -> None:
        self._peer = peer
        self.association: Association | None = None
        self.proposed: frozenset[Context] = frozenset()
        """Presentation contexts proposed in the association, accepted or not; empty without one."""
        self.errors_in_a_row = 0
        """Number of failed attempts since the last response."""
        self.backoff = backoff
        self.given_up = ""
        """Why the thread has given up; an empty text if it has not."""

    def associate(self, contexts: list[Context]) -> None:
        """Release the association, if there is one, and open one that proposes `contexts`.

        Raises ScuError; then there is no association.
        """
        self.release()
        self.association = Association(self._peer, contexts)
        self.proposed = frozenset(contexts)

    def release(self) -> None:
        """Release the association, if there is one."""
        if self.association is not None:
            self.association.release()
        self._forget()

    def abort(self) -> None:
        """Abort the association, if there is one; the connection may have been lost already."""
        if self.association is not None:
            self.association.abort()
        self._forget()

    def _forget(self) -> None:
        self.association = None
        self.proposed = frozenset()


def _temporary() -> IO[str]:
    return tempfile.TemporaryFile("w+", encoding="utf-8", prefix="oxidicom-send-")


def _spooled(spool: IO[str]) -> Iterator[tuple[Path, str]]:
    for line in spool:
        path, reason = json.loads(line)
        yield Path(path), reason
