"""Many files over several associations, again for what failed, and an account of it all.

One round takes what the file system has, the next what failed in it, on new associations, and so
on. What waits for the next round waits in a temporary file: memory does not grow with failures.
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

from oxidicom.errors import InternalError, OxidicomError
from oxidicom.scu.association import Association
from oxidicom.scu.connection import Peer
from oxidicom.scu.errors import Fault, ScuError
from oxidicom.scu.files import Candidate, NotDicomError, recognise
from oxidicom.scu.send_queue import Item, SendQueue
from oxidicom.thread_names import NamedThread
from oxidicom.wire.requestor import Context, is_stored, status_text

FIRST_PAUSE: Final = 0.5
"""Seconds before an association is tried again; doubled each time."""

_LONGEST_PAUSE: Final = 30.0

_ABORTS: Final = 3
"""In a row, whatever the retries: one instance that a peer does not bear is not all of them."""

Failed = Callable[[Path, str], None]
"""Told of each file that finally failed, and why; from any thread, one at a time."""


class SendTally:
    """What has come of it so far. Read at any time, written under the sending's lock."""

    def __init__(self) -> None:
        self.looked_at = 0
        """Files, DICOM or not, of the first round."""
        self.skipped = 0
        """Of folders and patterns, that are not DICOM."""
        self.stored = 0
        self.warned = 0
        """Of those, with a status of warning."""
        self.failed = 0
        """Finally."""
        self.bytes = 0
        """Of data sets that were stored."""
        self.associations = 0
        """Established."""
        self.rounds = 0
        self.statuses: Counter[str] = Counter()
        """Of all responses, those of attempts that were repeated too."""
        self.reasons: Counter[str] = Counter()
        """Of the final failures."""


class Sending:
    """`start`, then `wait` until it says that all is done; `stop` to end early."""

    def __init__(
        self,
        peer: Peer,
        candidates: Iterable[Candidate],
        failed: Failed,
        *,
        associations: int,
        retries: int,
        first_pause: float = FIRST_PAUSE,
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
        """Where failures of this round go that are tried again; a line each."""
        self._over = threading.Event()
        self._why_over = ""
        self._skip_rest = False
        self._backlog = SendQueue()
        self._working = 0
        """Threads that have not given up."""
        self._bug: BaseException | None = None
        self._ended = threading.Event()
        self._conductor = NamedThread(target=self._conduct, name="ox-send", daemon=True)

    def start(self) -> None:
        self._conductor.start()

    def wait(self, seconds: float) -> bool:
        """Whether all is done by then. Raises InternalError
        if a thread failed, and what `failed` raised."""
        # Not Thread.join: interrupted, it takes a thread that runs for one that has ended.
        if not self._ended.wait(seconds):
            return False
        if isinstance(self._bug, OxidicomError):
            raise self._bug
        if self._bug is not None:
            raise InternalError("sending ended too early") from self._bug
        return True

    def stop(self, why: str, *, skip_rest: bool) -> None:
        """After the instances that are on their way; `skip_rest`: do not even look for what else
        there would have been, and has therefore failed."""
        self._skip_rest = skip_rest
        self._end(why)

    @property
    def why_over(self) -> str:
        """Why it ended early, or empty."""
        return self._why_over

    # ---- rounds ------------------------------------------------------------------------------

    def _conduct(self) -> None:
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
                    if self._over.is_set():
                        for path, why in _spooled(spool):
                            self._fail(path, why)
                        break
                    source = (Candidate(path, True) for path, _ in _spooled(spool))
        except BaseException as error:
            self._bug = error
        finally:
            self._ended.set()

    def _round(self, source: Iterable[Candidate], *, first: bool) -> None:
        backlog = self._backlog = SendQueue()
        self._working = self._associations
        workers = [
            NamedThread(target=self._work, args=(backlog,), name=f"ox-send-{i}", daemon=True)
            for i in range(self._associations)
        ]
        for worker in workers:
            worker.start()
        try:
            for candidate in source:
                if self._over.is_set() and self._skip_rest:
                    break
                item = self._recognised(candidate, first=first)
                if item is None:
                    continue
                if self._over.is_set() or not backlog.put(item):
                    self._fail(candidate.path, self._why_over)
        finally:
            backlog.close()
        for worker in workers:
            worker.join()
        while (item := backlog.take()) is not None:  # of workers that gave up
            self._fail(item.data_set.path, self._why_over)
            backlog.settle()

    def _recognised(self, candidate: Candidate, *, first: bool) -> Item | None:
        self.tally.looked_at += first
        try:
            return Item(*recognise(candidate.path))
        except NotDicomError as error:
            if candidate.named:
                self._fail(candidate.path, str(error))
            else:
                self.tally.skipped += 1
        except OSError as error:
            self._fail(candidate.path, f"cannot be read: {error.strerror}")
        return None

    # ---- an association's thread ---------------------------------------------------------------

    def _work(self, backlog: SendQueue) -> None:
        line = _Line(self._peer)
        try:
            while not self._over.is_set() and not line.given_up:
                item = backlog.take(line.proposed)
                if item is None:
                    # First, because a peer with one association at a time keeps others waiting.
                    line.release()
                    if backlog.wait_for_returns():
                        continue
                    break
                if not self._associated(item, line, backlog):
                    backlog.put_back(item)
                else:
                    self._send(item, line)
                    backlog.settle()
            line.release()
        except BaseException as error:
            self._bug = error
            self._end("a fault of oxidicom's own")
            line.abort()
        with self._lock:
            self._working -= 1
            last = self._working == 0
        if last and line.given_up:
            self._end(line.given_up)

    def _associated(self, item: Item, line: _Line, backlog: SendQueue) -> bool:
        """Whether `line` is fit for it."""
        if item.data_set.context in line.proposed:
            return True
        try:
            line.associate(backlog.contexts(item.data_set.context))
        except ScuError as trouble:
            self._bear(line, trouble)
            return False
        with self._lock:
            self.tally.associations += 1
        return True

    def _send(self, item: Item, line: _Line) -> None:
        assert line.association is not None
        try:
            response, size = line.association.store(item.data_set)
        except ScuError as trouble:
            self._fail_for_now(item, str(trouble), permanent=trouble.permanent)
            if trouble.fatal:
                line.abort()
                if trouble.fault is not Fault.FILE:
                    self._bear(line, trouble, at_least=_ABORTS)
            return
        line.troubles = 0
        stored = is_stored(response.status)
        with self._lock:
            self.tally.statuses[status_text(response.status)] += 1
            if stored:
                self.tally.stored += 1
                self.tally.warned += response.status != 0
                self.tally.bytes += size
        if not stored:
            self._fail_for_now(item, f"status {status_text(response.status)}")

    def _bear(self, line: _Line, trouble: ScuError, *, at_least: int = 0) -> None:
        """Pause, or give up: if all threads have, sending is over."""
        line.troubles += 1
        if trouble.permanent or line.troubles > max(self._retries, at_least):
            line.given_up = str(trouble)
            return
        pause = min(self._first_pause * 2 ** (line.troubles - 1), _LONGEST_PAUSE)
        self._over.wait(pause)

    # ---- outcomes ------------------------------------------------------------------------------

    def _fail_for_now(self, item: Item, why: str, *, permanent: bool = False) -> None:
        spool = self._spool
        if spool is None or permanent or self._over.is_set():
            self._fail(item.data_set.path, why)
            return
        with self._lock:
            spool.write(json.dumps((str(item.data_set.path), why)) + "\n")

    def _fail(self, path: Path, why: str) -> None:
        with self._lock:
            self.tally.failed += 1
            self.tally.reasons[why] += 1
            self._failed(path, why)

    def _end(self, why: str) -> None:
        with self._lock:
            self._why_over = self._why_over or why
        self._over.set()
        self._backlog.close(abandon=True)


class _Line:
    """One thread's association, as long as it lives."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self.association: Association | None = None
        self.proposed: frozenset[Context] = frozenset()
        self.troubles = 0
        """In a row."""
        self.given_up = ""
        """Why."""

    def associate(self, contexts: list[Context]) -> None:
        self.release()
        self.association = Association(self._peer, contexts)
        self.proposed = frozenset(contexts)

    def release(self) -> None:
        if self.association is not None:
            self.association.release()
        self._forget()

    def abort(self) -> None:
        """Also after a connection that is lost already."""
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
        path, why = json.loads(line)
        yield Path(path), why
