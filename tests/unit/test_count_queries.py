"""Count queries: when a PACS is queried, on how many threads, and that nothing waits for it
(decision 43)."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator

import msgspec
import pytest
import pytest_asyncio

from oxidicom.ports import CountQueryResult, SeriesInfo, SeriesKey
from oxidicom.scu import count_queries as module
from oxidicom.scu.count_queries import DROPPED_ERROR, MAX_QUERY_THREADS, CountQueries
from oxidicom.scu.count_query import CountAnswer, CountQuery
from oxidicom.settings.addresses import PacsAddress
from tests.support.otlp import SERIES as OTHER_SERIES

PACS = PacsAddress("PACS", "127.0.0.1", 104)
pytestmark = pytest.mark.both_loops


def series(number: int = 1, title: str = "PACS") -> SeriesInfo:
    return msgspec.structs.replace(
        OTHER_SERIES, calling_ae_title=title, pacs_name=title, series_instance_uid=f"1.2.{number}"
    )


def key(number: int = 1) -> SeriesKey:
    return SeriesKey("PACS", f"1.2.{number}")


class FakePacs:
    """A finder that answers when the test lets it."""

    def __init__(self) -> None:
        self.questions: list[CountQuery] = []
        self.at_once = 0
        self.most_at_once = 0
        self.answer: CountAnswer | Exception = CountAnswer(5, 0, None)
        self.arrived = threading.Semaphore(0)
        self._lock = threading.Lock()
        self.free = threading.Event()
        self.free.set()

    def find(self, question: CountQuery) -> CountAnswer:
        with self._lock:
            self.questions.append(question)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        self.arrived.release()
        self.free.wait(10)
        with self._lock:
            self.at_once -= 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def wait_for_questions(self, count: int) -> None:
        for _ in range(count):
            assert await asyncio.to_thread(self.arrived.acquire, True, 10)


class Bench:
    def __init__(self) -> None:
        self.pacs = FakePacs()
        self.asked: list[CountQueryResult] = []
        self.loop_thread = threading.get_ident()
        self.queries = CountQueries([PACS], "ChRIS", self.pacs.find, self._answered)

    def _answered(self, asked: CountQueryResult) -> None:
        assert threading.get_ident() == self.loop_thread
        self.asked.append(asked)

    async def answers(self, *numbers: int) -> list[int | None]:
        return await asyncio.wait_for(
            asyncio.gather(*(self.queries.answer(key(number)) for number in numbers)), 10
        )


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    bench.pacs.free.set()
    bench.queries.close()


async def test_a_query_gives_its_answer_to_the_caller_and_the_observer(bench: Bench) -> None:
    bench.queries.stored(series(), "A")
    assert await bench.answers(1) == [5]
    assert bench.pacs.questions == [CountQuery(PACS, "ChRIS", series().study_instance_uid, "1.2.1")]
    [asked] = bench.asked
    assert asked._replace(asked_ns=0, began_ns=0, ended_ns=0) == CountQueryResult(
        series=series(),
        association_id="A",
        pacs_address="127.0.0.1:104",
        called_ae_title="PACS",
        calling_ae_title="ChRIS",
        expected=5,
        status=0,
        error=None,
        asked_ns=0,
        began_ns=0,
        ended_ns=0,
    )
    assert asked.began_ns is not None
    assert asked.asked_ns <= asked.began_ns <= asked.ended_ns


async def test_a_sender_without_a_pacs_address_is_not_queried(bench: Bench) -> None:
    bench.queries.stored(series(title="pacs"), "A")
    assert await bench.queries.answer(SeriesKey("pacs", "1.2.1")) is None
    assert bench.pacs.questions == []


async def test_each_reception_of_a_series_makes_one_query(bench: Bench) -> None:
    for association in ("A", "B", "A"):
        bench.queries.stored(series(), association)
    assert await bench.answers(1) == [5]
    bench.queries.stored(series(), "C")
    assert len(bench.pacs.questions) == 1
    bench.queries.completed(key())
    assert await bench.answers(1) == [5], "who registers it may still ask"
    bench.pacs.answer = CountAnswer(6, 0, None)
    bench.queries.stored(series(), "D")
    await bench.pacs.wait_for_questions(2)
    bench.queries.completed(key())
    assert await bench.answers(1) == [6]
    assert [asked.association_id for asked in bench.asked] == ["A", "D"]


async def test_an_answer_may_come_after_the_series_is_complete(bench: Bench) -> None:
    bench.pacs.free.clear()
    bench.queries.stored(series(), "A")
    await bench.pacs.wait_for_questions(1)
    bench.queries.completed(key())
    waiting = asyncio.create_task(bench.queries.answer(key()))
    bench.pacs.free.set()
    assert await asyncio.wait_for(waiting, 10) == 5


async def test_the_number_of_queries_at_once_is_bounded(bench: Bench) -> None:
    bench.pacs.free.clear()
    numbers = range(3 * MAX_QUERY_THREADS)
    for number in numbers:
        bench.queries.stored(series(number), "A")
    await bench.pacs.wait_for_questions(MAX_QUERY_THREADS)
    assert bench.pacs.at_once == MAX_QUERY_THREADS
    bench.pacs.free.set()
    assert await bench.answers(*numbers) == [5] * len(numbers)
    assert bench.pacs.most_at_once == MAX_QUERY_THREADS
    assert [asked.error for asked in bench.asked] == [None] * len(numbers)


async def test_a_pacs_that_hangs_leaves_the_others_a_thread() -> None:
    addresses = [PacsAddress(f"PACS{n}", "127.0.0.1", 104 + n) for n in range(3)]
    hung, freed = threading.Semaphore(0), threading.Event()

    def find(question: CountQuery) -> CountAnswer:
        if question.address.port < 106:
            hung.release()
            freed.wait(10)
        return CountAnswer(question.address.port, 0, None)

    queries = CountQueries(addresses, "ChRIS", find, lambda asked: None)
    for number in range(20):
        queries.stored(series(number, f"PACS{number % 2}"), "A")
    for _ in range(2):
        assert await asyncio.to_thread(hung.acquire, True, 10)
    queries.stored(series(99, "PACS2"), "A")
    assert await asyncio.wait_for(queries.answer(SeriesKey("PACS2", "1.2.99")), 10) == 106
    assert not hung.acquire(blocking=False)
    freed.set()
    last = SeriesKey("PACS1", "1.2.19")
    assert await asyncio.wait_for(queries.answer(last), 10) == 105
    queries.close()


async def test_the_oldest_of_too_many_waiting_queries_is_dropped(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.pacs.free.clear()
    for number in range(MAX_QUERY_THREADS):
        bench.queries.stored(series(number), "A")
    await bench.pacs.wait_for_questions(MAX_QUERY_THREADS)
    # Only now, or threads that start slowly would leave more waiting.
    monkeypatch.setattr(module, "MAX_WAITING_QUERIES", 3)
    late = range(MAX_QUERY_THREADS, MAX_QUERY_THREADS + 5)
    for number in late:
        bench.queries.stored(series(number), "A")
    assert bench.queries.dropped == 2
    assert await bench.answers(*late[:2]) == [None, None]
    assert [(asked.error, asked.began_ns) for asked in bench.asked] == [(DROPPED_ERROR, None)] * 2
    bench.pacs.free.set()
    assert await bench.answers(*late[2:]) == [5, 5, 5]


async def test_a_waiting_caller_may_be_cancelled(bench: Bench) -> None:
    bench.pacs.free.clear()
    bench.queries.stored(series(), "A")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await bench.queries.answer(key())
    bench.pacs.free.set()
    assert await bench.answers(1) == [5]


async def test_a_caller_waits_no_longer_than_the_limit(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time in the queue, and that of a name server, count as well."""
    monkeypatch.setattr(module, "COUNT_QUERY_LIMIT_S", 0.05)
    bench.pacs.free.clear()
    bench.queries.stored(series(), "A")
    assert await bench.answers(1) == [None]
    bench.pacs.free.set()
    await bench.pacs.wait_for_questions(1)


async def test_a_finder_that_raises_gives_no_count(bench: Bench) -> None:
    bench.pacs.answer = ValueError("Doe^Jane")
    bench.queries.stored(series(), "A")
    assert await bench.answers(1) == [None]
    assert [asked.error for asked in bench.asked] == ["ValueError"]


async def test_an_error_is_logged_once_and_so_is_its_end(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "oxidicom.query")
    away, back = CountAnswer(None, None, "away"), CountAnswer(5, 0, None)
    for number, answer in enumerate(
        [back, away, away, CountAnswer(None, 0, "no match"), back, back]
    ):
        bench.pacs.answer = answer
        bench.queries.stored(series(number), "A")
        await bench.answers(number)
    told = [record.fields.get("reason") for record in caplog.records]  # type: ignore[attr-defined]
    assert told == ["away", "no match", None]
    assert "Zwiebelmarker" not in str([vars(record) for record in caplog.records])


async def test_closing_does_not_wait_for_queries_in_progress(bench: Bench) -> None:
    bench.pacs.free.clear()
    for number in range(MAX_QUERY_THREADS + 1):
        bench.queries.stored(series(number), "A")
    await bench.pacs.wait_for_questions(MAX_QUERY_THREADS)
    waiting = asyncio.create_task(bench.queries.answer(key(0)))
    bench.queries.completed(key(1))
    bench.queries.close()
    assert await asyncio.wait_for(waiting, 10) is None
    assert await bench.answers(1, MAX_QUERY_THREADS) == [None, None]
    bench.queries.stored(series(99), "A")
    assert await bench.answers(99) == [None]
    workers = [each for each in threading.enumerate() if each.name.startswith("ox-c-find")]
    assert workers
    assert all(each.daemon for each in workers)
    bench.pacs.free.set()
    for each in workers:
        await asyncio.to_thread(each.join, 10)
        assert not each.is_alive()
    assert bench.asked == []


async def test_the_number_of_completed_queries_is_bounded(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_COMPLETED_QUERIES", 2)
    for number in range(3):
        bench.queries.stored(series(number), "A")
        bench.queries.completed(key(number))
    await bench.pacs.wait_for_questions(3)
    assert await bench.answers(0, 1, 2) == [None, 5, 5]
