"""Count queries to PACS, made by a few daemon threads that share one bounded queue.

A PACS that hangs delays neither reception nor registration nor the end of the process.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import Final

from oxidicom.logevents import describe, event
from oxidicom.ports import CountQueryResult, SeriesInfo, SeriesKey
from oxidicom.scu.count_query import COUNT_QUERY_LIMIT_S, CountAnswer, CountQuery, Finder
from oxidicom.settings.addresses import PacsAddress
from oxidicom.thread_names import NamedThread

logger = logging.getLogger("oxidicom.query")

MAX_QUERY_THREADS: Final = 4
"""Greatest number of count queries in progress at once."""

MAX_WAITING_QUERIES: Final = 1024
"""Greatest number of count queries that wait for a thread; one more drops the oldest."""

MAX_COMPLETED_QUERIES: Final = 1024
"""Greatest number of completed series whose answers are kept; one more drops the oldest."""

DROPPED_ERROR: Final = "too many count queries are waiting"


class _PendingQuery:
    """The count query of one series, and the future of its answer."""

    __slots__ = ("answer", "asked_ns", "association_id", "deadline", "query", "series")

    def __init__(
        self,
        query: CountQuery,
        series: SeriesInfo,
        association_id: str,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.query = query
        self.series = series
        self.association_id = association_id
        self.asked_ns = time.time_ns()
        self.deadline = loop.time() + COUNT_QUERY_LIMIT_S
        self.answer: asyncio.Future[int | None] = loop.create_future()


class CountQueries:
    """The count queries of one receiver.

    Make it and call it on one running loop. `answered` is called on that loop once for each query,
    also for one that was dropped, until `close`. `finder` is called on the threads.
    """

    def __init__(
        self,
        addresses: Iterable[PacsAddress],
        calling_ae_title: str,
        finder: Finder,
        answered: Callable[[CountQueryResult], None],
    ) -> None:
        self._addresses = {address.ae_title: address for address in addresses}
        self._calling_ae_title = calling_ae_title
        self._finder = finder
        self._answered = answered
        self._loop = asyncio.get_running_loop()
        self._open: dict[SeriesKey, _PendingQuery] = {}
        self._completed: OrderedDict[SeriesKey, _PendingQuery] = OrderedDict()
        self._logged_errors: dict[str, str] = {}
        """The error last logged for each PACS that gives no counts, by its AE title."""
        self.dropped = 0
        """Number of queries dropped so far because too many were waiting."""
        self._threads = 0
        # The threads use the attributes below, too, under `_changed`.
        self._changed = threading.Condition()
        self._waiting: deque[_PendingQuery] = deque()
        self._idle = 0
        self._in_progress: Counter[str] = Counter()
        """Number of queries in progress at each PACS, by its AE title."""
        self._max_per_pacs = max(1, MAX_QUERY_THREADS // max(1, len(self._addresses)))
        """Greatest number of queries in progress at one PACS: if it hangs, threads must remain for
        the others."""
        self._closed = False

    # ---- on the loop ---------------------------------------------------------------------

    def stored(self, series: SeriesInfo, association_id: str) -> None:
        """Start the count query of a series whose first instance has been stored.

        Does nothing for further instances of the series, and for a calling AE title without a PACS.
        """
        address = self._addresses.get(series.calling_ae_title)
        if address is None or series.key in self._open:
            return
        query = CountQuery(
            address,
            self._calling_ae_title,
            series.study_instance_uid,
            series.series_instance_uid,
        )
        pending = _PendingQuery(query, series, association_id, self._loop)
        self._open[series.key] = pending
        self._enqueue(pending)

    def _enqueue(self, pending: _PendingQuery) -> None:
        dropped = None
        with self._changed:
            if self._closed:
                pending.answer.set_result(None)
                return
            if len(self._waiting) == MAX_WAITING_QUERIES:
                dropped = self._waiting.popleft()
            self._waiting.append(pending)
            self._changed.notify()
            need_thread = len(self._waiting) > self._idle and self._threads < MAX_QUERY_THREADS
        if need_thread:
            name = f"ox-c-find-{self._threads}"
            NamedThread(target=self._work, name=name, daemon=True).start()
            self._threads += 1
        if dropped is not None:
            self.dropped += 1
            self._finish(dropped, None, CountAnswer(None, None, DROPPED_ERROR))

    def completed(self, key: SeriesKey) -> None:
        """Record that a series is complete: a later instance of it starts a new query.

        Does nothing for a series without a query.
        """
        pending = self._open.pop(key, None)
        if pending is not None:
            self._completed[key] = pending
            self._completed.move_to_end(key)
            if len(self._completed) > MAX_COMPLETED_QUERIES:
                self._completed.popitem(last=False)

    async def answer(self, key: SeriesKey) -> int | None:
        """Wait for the number of instances that the PACS has of a series, and return it.

        Returns None if there was no query, the PACS gave no count, or `COUNT_QUERY_LIMIT_S` has
        passed since `stored` started the query. If the series has been completed and is received
        again, the query of the completed reception is the one that counts. May be cancelled.
        """
        pending = self._completed.get(key) or self._open.get(key)
        if pending is None:
            return None
        remaining = max(0.0, pending.deadline - self._loop.time())
        await asyncio.wait([pending.answer], timeout=remaining)
        return pending.answer.result() if pending.answer.done() else None

    def close(self) -> None:
        """Let every waiting `answer` return None, and start no further query.

        Queries in progress are not interrupted; their results are ignored.
        """
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()
        for pending in (*self._open.values(), *self._completed.values()):
            if not pending.answer.done():
                pending.answer.set_result(None)

    def _finish(self, pending: _PendingQuery, began_ns: int | None, answer: CountAnswer) -> None:
        if self._closed:
            return
        if not pending.answer.done():
            pending.answer.set_result(answer.expected)
        address = pending.query.address
        self._log(pending, answer)
        self._answered(
            CountQueryResult(
                series=pending.series,
                association_id=pending.association_id,
                pacs_address=str(address).partition("=")[2],
                called_ae_title=address.ae_title,
                calling_ae_title=pending.query.calling_ae_title,
                expected=answer.expected,
                status=answer.status,
                error=answer.error,
                asked_ns=pending.asked_ns,
                began_ns=began_ns,
                ended_ns=time.time_ns(),
            )
        )

    def _log(self, pending: _PendingQuery, answer: CountAnswer) -> None:
        """Log the error of an answer, or that its PACS gives counts again.

        An error that equals the last one logged for the PACS is not repeated, because a PACS may
        be unreachable for days.
        """
        title = pending.query.address.ae_title
        if answer.expected is not None:
            if self._logged_errors.pop(title, None) is not None:
                event(logger, logging.INFO, "PACS answers count queries again", aet=title)
        elif answer.error is not None and self._logged_errors.get(title) != answer.error:
            self._logged_errors[title] = answer.error
            event(
                logger,
                logging.WARNING,
                "PACS gave no instance count",
                aet=title,
                SeriesInstanceUID=pending.series.series_instance_uid,
                reason=answer.error,
            )

    # ---- on the threads ------------------------------------------------------------------

    def _work(self) -> None:
        while (pending := self._next()) is not None:
            began_ns = time.time_ns()
            try:
                answer = self._finder(pending.query)
            except Exception as error:
                answer = CountAnswer(None, None, describe(error))
            with self._changed:
                self._in_progress[pending.query.address.ae_title] -= 1
            try:
                self._loop.call_soon_threadsafe(self._finish, pending, began_ns, answer)
            except RuntimeError:  # the loop has been closed meanwhile
                return

    def _next(self) -> _PendingQuery | None:
        """Wait for the next query to make and return it; return None after `close`."""
        with self._changed:
            self._idle += 1
            while not self._closed and (pending := self._oldest_allowed()) is None:
                self._changed.wait()
            self._idle -= 1
            if self._closed:
                return None
            assert pending is not None
            self._waiting.remove(pending)
            self._in_progress[pending.query.address.ae_title] += 1
            return pending

    def _oldest_allowed(self) -> _PendingQuery | None:
        """Return the oldest waiting query whose PACS has fewer than `_max_per_pacs` in progress, or
        None."""
        for pending in self._waiting:
            if self._in_progress[pending.query.address.ae_title] < self._max_per_pacs:
                return pending
        return None
