"""Asking about series, beside everything else: nobody waits for a PACS who does not want to.

Questions wait in one bounded queue for a few daemon threads, so that a PACS that hangs holds up
neither reception nor registration nor exit.
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
from oxidicom.ports import SeriesAsked, SeriesInfo, SeriesKey
from oxidicom.scu.count_query import LIMIT, CountAnswer, CountQuery, Finder
from oxidicom.settings.addresses import PacsAddress
from oxidicom.thread_names import NamedThread

logger = logging.getLogger("oxidicom.query")

THREADS: Final = 4
"""Questions on their way at once."""

WAITING: Final = 1024
"""Questions that wait for a thread; of one more the oldest is dropped."""

REMEMBERED: Final = 1024
"""Receptions whose answer may still be asked for after they have completed."""

DROPPED: Final = "too many questions wait"


class _PendingQuery:
    """One reception's question."""

    __slots__ = ("answer", "asked_ns", "association_id", "deadline", "question", "series")

    def __init__(
        self,
        question: CountQuery,
        series: SeriesInfo,
        association_id: str,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.question = question
        self.series = series
        self.association_id = association_id
        self.asked_ns = time.time_ns()
        self.deadline = loop.time() + LIMIT
        self.answer: asyncio.Future[int | None] = loop.create_future()


class CountQueries:
    """Made, and called, on one running loop, on which `answered` is called, too: once for each
    question. `finder` is called from threads."""

    def __init__(
        self,
        addresses: Iterable[PacsAddress],
        calling_ae_title: str,
        finder: Finder,
        answered: Callable[[SeriesAsked], None],
    ) -> None:
        self._addresses = {address.ae_title: address for address in addresses}
        self._calling_ae_title = calling_ae_title
        self._finder = finder
        self._answered = answered
        self._loop = asyncio.get_running_loop()
        self._open: dict[SeriesKey, _PendingQuery] = {}
        self._completed: OrderedDict[SeriesKey, _PendingQuery] = OrderedDict()
        self._troubles: dict[str, str] = {}
        """What was told of a PACS that gives no counts, by AE title."""
        self.dropped = 0
        """Questions."""
        self._threads = 0
        # Below: shared with the threads.
        self._changed = threading.Condition()
        self._waiting: deque[_PendingQuery] = deque()
        self._idle = 0
        self._busy: Counter[str] = Counter()
        """Questions on their way, by AE title."""
        self._most_busy = max(1, THREADS // max(1, len(self._addresses)))
        """Of one PACS: one that hangs must not take every thread from the others."""
        self._closed = False

    # ---- the loop's side -----------------------------------------------------------------

    def stored(self, series: SeriesInfo, association_id: str) -> None:
        """An instance was; the first of a reception asks, if there is somebody to ask."""
        address = self._addresses.get(series.calling_ae_title)
        if address is None or series.key in self._open:
            return
        question = CountQuery(
            address,
            self._calling_ae_title,
            series.study_instance_uid,
            series.series_instance_uid,
        )
        inquiry = _PendingQuery(question, series, association_id, self._loop)
        self._open[series.key] = inquiry
        self._ask(inquiry)

    def _ask(self, inquiry: _PendingQuery) -> None:
        dropped = None
        with self._changed:
            if self._closed:
                inquiry.answer.set_result(None)
                return
            if len(self._waiting) == WAITING:
                dropped = self._waiting.popleft()
            self._waiting.append(inquiry)
            self._changed.notify()
            wanted = len(self._waiting) > self._idle and self._threads < THREADS
        if wanted:
            name = f"ox-c-find-{self._threads}"
            NamedThread(target=self._work, name=name, daemon=True).start()
            self._threads += 1
        if dropped is not None:
            self.dropped += 1
            self._take(dropped, None, CountAnswer(None, None, DROPPED))

    def completed(self, key: SeriesKey) -> None:
        """What comes of the series from now on belongs to another reception."""
        inquiry = self._open.pop(key, None)
        if inquiry is not None:
            self._completed[key] = inquiry
            self._completed.move_to_end(key)
            if len(self._completed) > REMEMBERED:
                self._completed.popitem(last=False)

    async def answer(self, key: SeriesKey) -> int | None:
        """How many instances the PACS has, as soon as it has said so; None if nobody was asked, the
        PACS does not say, or `LIMIT` after the question is over. Of the reception that completed
        last, or of one that is open. Whoever waits may stop at any time."""
        inquiry = self._completed.get(key) or self._open.get(key)
        if inquiry is None:
            return None
        left = max(0.0, inquiry.deadline - self._loop.time())
        await asyncio.wait([inquiry.answer], timeout=left)
        return inquiry.answer.result() if inquiry.answer.done() else None

    def close(self) -> None:
        """Whoever waits for an answer waits no longer; questions on their way are left alone."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()
        for inquiry in (*self._open.values(), *self._completed.values()):
            if not inquiry.answer.done():
                inquiry.answer.set_result(None)

    def _take(self, inquiry: _PendingQuery, began_ns: int | None, answer: CountAnswer) -> None:
        if self._closed:
            return
        if not inquiry.answer.done():
            inquiry.answer.set_result(answer.expected)
        address = inquiry.question.address
        self._tell(inquiry, answer)
        self._answered(
            SeriesAsked(
                series=inquiry.series,
                association_id=inquiry.association_id,
                pacs_address=str(address).partition("=")[2],
                called_ae_title=address.ae_title,
                calling_ae_title=inquiry.question.calling_ae_title,
                expected=answer.expected,
                status=answer.status,
                error=answer.error,
                asked_ns=inquiry.asked_ns,
                began_ns=began_ns,
                ended_ns=time.time_ns(),
            )
        )

    def _tell(self, inquiry: _PendingQuery, answer: CountAnswer) -> None:
        """Once, until something else is the matter: a PACS may be away for days."""
        title = inquiry.question.address.ae_title
        if answer.expected is not None:
            if self._troubles.pop(title, None) is not None:
                event(logger, logging.INFO, "PACS answers count queries again", aet=title)
        elif answer.error is not None and self._troubles.get(title) != answer.error:
            self._troubles[title] = answer.error
            event(
                logger,
                logging.WARNING,
                "PACS gave no instance count",
                aet=title,
                SeriesInstanceUID=inquiry.series.series_instance_uid,
                reason=answer.error,
            )

    # ---- the threads' side ---------------------------------------------------------------

    def _work(self) -> None:
        while (inquiry := self._next()) is not None:
            began_ns = time.time_ns()
            try:
                answer = self._finder(inquiry.question)
            except Exception as error:
                answer = CountAnswer(None, None, describe(error))
            with self._changed:
                self._busy[inquiry.question.address.ae_title] -= 1
            try:
                self._loop.call_soon_threadsafe(self._take, inquiry, began_ns, answer)
            except RuntimeError:  # the loop has ended meanwhile
                return

    def _next(self) -> _PendingQuery | None:
        """None: all is over."""
        with self._changed:
            self._idle += 1
            while not self._closed and (inquiry := self._oldest_possible()) is None:
                self._changed.wait()
            self._idle -= 1
            if self._closed:
                return None
            assert inquiry is not None
            self._waiting.remove(inquiry)
            self._busy[inquiry.question.address.ae_title] += 1
            return inquiry

    def _oldest_possible(self) -> _PendingQuery | None:
        for inquiry in self._waiting:
            if self._busy[inquiry.question.address.ae_title] < self._most_busy:
                return inquiry
        return None
