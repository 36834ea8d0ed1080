"""The control plane: reports of any thread lead to notices and registrations."""

from __future__ import annotations

import asyncio
import errno
import logging
import threading
import time
from contextlib import suppress
from typing import Any

import msgspec
import pytest

from oxidicom.app.control_plane import ControlPlane, ControlThread
from oxidicom.app.deadlines import ControlPlaneDeadlines
from oxidicom.app.lonk_observer import LonkObserver
from oxidicom.observers import Observer, Observers, TraceContext
from oxidicom.ports import (
    AssociationBegan,
    AssociationEnded,
    CountQueryResult,
    InstanceRefused,
    InstanceStored,
    SeriesCompleted,
    SeriesInfo,
)
from oxidicom.scu.count_queries import CountQueries
from oxidicom.scu.count_query import CountAnswer, CountQuery
from oxidicom.series.tracker import SeriesTracker
from oxidicom.settings.addresses import PacsAddress
from tests.support.timing import BUSY_MACHINE_S

SERIES = SeriesInfo(
    calling_ae_title="PACS",
    pacs_name="PACS",
    path="SERVICES/PACS/PACS/p/s/d",
    patient_id="SECRET",
    study_date="2024-01-31",
    study_instance_uid="1.2",
    series_instance_uid="1.2.3",
)


class Recorder:
    """Replaces LONK publisher, relay and registrar; records the calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.dropped = 0
        self.depth = 0
        self.registrar = RecordingRegistrar(self.calls)
        self.completed = self.registrar.completed

    def progress(self, series: SeriesInfo, count: int, first: bool) -> None:
        self.calls.append(("progress", count, first))

    def failed(self, calling_ae_title: str, uid: str | None, error: str) -> None:
        self.calls.append(("failed", calling_ae_title, uid, error))

    async def flush(self, timeout: float) -> bool:
        self.calls.append(("flush",))
        return True

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def stop(self, timeout: float) -> int:
        self.calls.append(("relay stopped",))
        return 0


class RecordingRegistrar:
    def __init__(self, calls: list[tuple[Any, ...]]) -> None:
        self.calls = calls
        self.completed = asyncio.Event()

    def submit(self, completed: SeriesCompleted) -> None:
        self.calls.append(("completed", completed.received, completed.associations))
        self.completed.set()

    async def finish(self, timeout: float) -> None: ...

    def close(self) -> None: ...


class RecordingEagerRegistrar:
    def __init__(self, calls: list[tuple[Any, ...]]) -> None:
        self.calls = calls

    def start(self) -> None:
        self.calls.append(("eager started",))

    async def stop(self) -> None:
        self.calls.append(("eager stopped",))

    def stored(self, series: SeriesInfo, association_id: str) -> None:
        self.calls.append(("stored", series.series_instance_uid, association_id))


def plane(recorder: Recorder, settle: float = 0.0, eager: Any = None) -> ControlPlane:
    return ControlPlane(
        tracker=SeriesTracker(settle, 0.0),
        registrar=recorder.registrar,  # type: ignore[arg-type]
        relay=recorder,  # type: ignore[arg-type]
        lonk=recorder,  # type: ignore[arg-type]
        observers=Observers([LonkObserver(recorder)]),  # type: ignore[arg-type]
        trace=TraceContext(),
        eager=eager,
    )


def within(seconds: float) -> ControlPlaneDeadlines:
    return ControlPlaneDeadlines.of(seconds, time.monotonic())


def began(association: str = "A") -> AssociationBegan:
    return AssociationBegan(association, "127.0.0.1", 4242, "PACS", "ChRIS", 0.0, 1)


def stored(uid: str, association: str = "A", at: float = 0.0) -> InstanceStored:
    return InstanceStored(association, SERIES, uid, 100, 0.001, at)


def of_uid(series: SeriesInfo, uid: str) -> SeriesInfo:
    return msgspec.structs.replace(series, series_instance_uid=uid)


def ended(association: str = "A", at: float = 0.0) -> AssociationEnded:
    return AssociationEnded(association, None, 1000, at, 2)


async def test_reports_from_another_thread_become_notices_in_order() -> None:
    recorder = Recorder()
    control = plane(recorder)
    await control.start([])

    def send() -> None:
        control.report(began())
        for number in range(3):
            control.report(stored(f"1.{number}"))
        control.report(InstanceRefused("A", "PACS", "PACS", "1.9", 0xC000, "Illegal value", 0.0))
        control.report(ended())

    thread = threading.Thread(target=send)
    thread.start()
    await asyncio.wait_for(recorder.completed.wait(), 5)
    thread.join()
    assert recorder.calls == [
        ("progress", 1, True),
        ("progress", 2, False),
        ("progress", 3, False),
        ("failed", "PACS", "1.9", "Illegal value"),
        ("completed", 3, ("A",)),
    ]


async def test_a_series_completes_when_it_has_settled() -> None:
    recorder = Recorder()
    control = plane(recorder, settle=0.05)
    await control.start([])
    now = time.monotonic()
    for report in (began(), stored("1.1", at=now), ended(at=now)):
        control.report(report)
    await asyncio.wait_for(recorder.completed.wait(), 5)
    assert recorder.calls[-1] == ("completed", 1, ("A",))


async def test_a_recovered_series_completes_without_a_retry() -> None:
    recorder = Recorder()
    control = plane(recorder)
    await control.start([(SERIES, ("OLD",), frozenset({"1.1", "1.2"}))])
    await asyncio.wait_for(recorder.completed.wait(), 5)
    assert recorder.calls == [("completed", 2, ("OLD",))]


async def test_series_of_a_dead_worker_are_completed(caplog: pytest.LogCaptureFixture) -> None:
    """One series was reported, one was not, and one was complete before."""
    recorder = Recorder()
    control = plane(recorder)
    await control.start([])
    whole = of_uid(SERIES, "9.9")
    control.report(began("OPEN")._replace(worker=2))
    control.report(stored("1.1", "OPEN"))
    control.report(began("ENDED"))
    control.report(InstanceStored("ENDED", whole, "9.1", 100, 0.001, 0.0))
    control.report(ended("ENDED"))
    unreported = of_uid(SERIES, "8.8")
    with caplog.at_level(logging.INFO, "oxidicom.control"):
        control.worker_lost(
            [
                (SERIES, ("OPEN",), frozenset({"1.1", "1.2"})),
                (whole, ("ENDED",), frozenset({"9.1"})),
                (unreported, ("UNREPORTED",), frozenset({"8.1"})),
            ],
            ["OPEN"],
        )
    (line,) = (each for each in caplog.records if each.message == "association ended")
    assert line.fields["end"] == "the receiving process died"  # type: ignore[attr-defined]
    assert line.fields["worker"] == 2  # type: ignore[attr-defined]
    async with asyncio.timeout(5):
        while len([each for each in recorder.calls if each[0] == "completed"]) < 3:
            recorder.completed.clear()
            await recorder.completed.wait()
    assert sorted(each for each in recorder.calls if each[0] == "completed") == [
        ("completed", 1, ("ENDED",)),
        ("completed", 1, ("UNREPORTED",)),
        ("completed", 2, ("OPEN",)),
    ]
    assert control.backlog == 0


async def test_finish_processes_the_last_reports_and_completes_open_series() -> None:
    recorder = Recorder()
    control = plane(recorder, settle=3600)
    await control.start([])
    for report in (began(), stored("1.1"), ended()):
        control.report(report)
    await control.finish(within(5.0))
    assert [event[0] for event in recorder.calls] == [
        "progress",
        "completed",
        "relay stopped",
        "flush",
    ]


async def test_stored_instances_are_passed_to_eager_registration() -> None:
    recorder = Recorder()
    control = plane(recorder, settle=3600, eager=RecordingEagerRegistrar(recorder.calls))
    await control.start([])
    control.report(began("A"))
    control.report(stored("1.1", "A"))
    control.report(began("B"))
    control.report(stored("1.2", "B"))
    await control.finish(within(5.0))
    assert [each for each in recorder.calls if each[0] in ("eager started", "stored")] == [
        ("eager started",),
        ("stored", "1.2.3", "A"),
        ("stored", "1.2.3", "A"),
    ], "by the first association that carried the series"
    calls = [each[0] for each in recorder.calls]
    assert calls.index("eager stopped") < calls.index("relay stopped")


async def test_a_report_that_cannot_be_processed_does_not_stop_later_ones(
    caplog: pytest.LogCaptureFixture,
) -> None:
    recorder = Recorder()
    control = plane(recorder)
    await control.start([])
    with caplog.at_level(logging.ERROR, "oxidicom.control"):
        control.report(ended("never began"))
        for report in (began(), stored("1.1"), ended()):
            control.report(report)
        await asyncio.wait_for(recorder.completed.wait(), 5)
    assert "report processing failed" in caplog.text
    assert "SECRET" not in caplog.text


async def test_series_of_an_association_whose_beginning_is_unknown_are_registered() -> None:
    recorder = Recorder()
    control = plane(recorder)
    await control.start([])
    control.report(stored("1.1"))
    control.report(ended())
    await asyncio.wait_for(recorder.completed.wait(), 5)
    assert recorder.calls[-1] == ("completed", 1, ("A",))


async def test_a_series_completes_even_if_its_progress_cannot_be_published(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorder = Recorder()
    control = plane(recorder)
    await control.start([])

    def fail(series: SeriesInfo, count: int, first: bool) -> None:
        raise RuntimeError

    monkeypatch.setattr(recorder, "progress", fail)
    # The instance is reported after the end of its association: progress and completion follow.
    for report in (began(), ended(), stored("1.1")):
        control.report(report)
    await asyncio.wait_for(recorder.completed.wait(), 5)
    assert recorder.calls == [("completed", 1, ("A",))]


class Hung:
    """Something that ends neither by itself nor when it is cancelled, as client libraries do."""

    def __init__(self) -> None:
        self._released = asyncio.Event()
        self._thread_released = threading.Event()

    async def hang(self, *_: object) -> Any:
        while not self._released.is_set():
            with suppress(asyncio.CancelledError):
                await self._released.wait()

    def hang_thread(self, *_: object) -> None:
        self._thread_released.wait(30)

    def release(self) -> None:
        self._released.set()
        self._thread_released.set()


class Exporter(Observer):
    """An observer whose shutdown takes time."""

    def shutdown(self, timeout_s: float) -> None:
        raise NotImplementedError("each test sets its own")


@pytest.mark.parametrize(
    ("hanging", "events"),
    [
        ("eager stop", ["relay stopped", "NATS flushed", "NATS closed", "telemetry exported"]),
        ("relay stop", ["eager stopped", "NATS flushed", "NATS closed", "telemetry exported"]),
        ("NATS flush", ["eager stopped", "relay stopped", "NATS closed", "telemetry exported"]),
        ("NATS close", ["eager stopped", "relay stopped", "NATS flushed", "telemetry exported"]),
        ("telemetry", ["eager stopped", "relay stopped", "NATS flushed", "NATS closed"]),
        ("everything", []),
    ],
)
async def test_what_hangs_at_shutdown_does_not_take_the_time_of_others(
    monkeypatch: pytest.MonkeyPatch, hanging: str, events: list[str]
) -> None:
    recorder, hung, exporter = Recorder(), Hung(), Exporter()
    ended: list[str] = []

    async def stop_eager() -> None:
        ended.append("eager stopped")

    async def stop_relay(timeout: float) -> int:
        ended.append("relay stopped")
        return 0

    async def flush(timeout: float) -> bool:
        ended.append("NATS flushed")
        return True

    async def close() -> None:
        ended.append("NATS closed")

    eager = RecordingEagerRegistrar([])
    for name, owner, attribute, work, hang in (
        ("eager stop", eager, "stop", stop_eager, hung.hang),
        ("relay stop", recorder, "stop", stop_relay, hung.hang),
        ("NATS flush", recorder, "flush", flush, hung.hang),
        ("NATS close", recorder, "close", close, hung.hang),
        ("telemetry", exporter, "shutdown",
         lambda timeout: ended.append("telemetry exported"), hung.hang_thread),
    ):  # fmt: skip
        monkeypatch.setattr(owner, attribute, hang if hanging in (name, "everything") else work)
    control = ControlPlane(
        tracker=SeriesTracker(0.0, 0.0),
        registrar=recorder.registrar,  # type: ignore[arg-type]
        relay=recorder,  # type: ignore[arg-type]
        lonk=recorder,  # type: ignore[arg-type]
        observers=Observers([LonkObserver(recorder), exporter]),  # type: ignore[arg-type]
        trace=TraceContext(),
        eager=eager,  # type: ignore[arg-type]
    )
    await control.start([])
    started = time.monotonic()
    await control.finish(within(2.0))
    elapsed = time.monotonic() - started
    hung.release()
    assert ended == events
    assert elapsed < 2 + BUSY_MACHINE_S


def test_starting_the_thread_raises_if_its_loop_cannot_be_created() -> None:
    def no_handles_left() -> asyncio.AbstractEventLoop:
        raise OSError(errno.EMFILE, "Too many open files")

    with pytest.raises(OSError, match="Too many open files"):
        ControlThread(no_handles_left).start()


def test_the_thread_runs_a_loop_of_its_own_until_it_is_stopped() -> None:
    thread = ControlThread(None)
    thread.start()

    async def name() -> str:
        return threading.current_thread().name

    assert asyncio.run_coroutine_threadsafe(name(), thread.loop).result(5) == "ox-control"
    thread.stop(5)
    assert thread.loop.is_closed()


# ---- expected counts -------------------------------------------------------------------------


class QueryingControlPlane:
    """A control plane with count queries; records the series that it has queried."""

    def __init__(self) -> None:
        self.recorder = Recorder()
        self.tracker = SeriesTracker(3600, 0.0)
        self.asked: list[str] = []
        self.answered = asyncio.Event()
        self.count_queries = CountQueries(
            [PacsAddress("PACS", "127.0.0.1", 104)], "ChRIS", self._find, self._take
        )
        self.plane = ControlPlane(
            tracker=self.tracker,
            registrar=self.recorder.registrar,  # type: ignore[arg-type]
            relay=self.recorder,  # type: ignore[arg-type]
            lonk=None,
            observers=Observers([]),
            trace=TraceContext(),
            count_queries=self.count_queries,
        )

    def _find(self, query: CountQuery) -> CountAnswer:
        self.asked.append(query.series_instance_uid)
        return CountAnswer(40 + len(self.asked), 0, None)

    def _take(self, asked: CountQueryResult) -> None:
        assert asked.expected is not None
        self.tracker.expect(asked.series.key, asked.expected)
        self.answered.set()

    def expected(self) -> list[int | None]:
        return [series.expected for series in self.tracker.latest(100)]


async def test_the_first_instance_of_a_series_starts_a_count_query() -> None:
    querying = QueryingControlPlane()
    await querying.plane.start([])
    for report in (began(), stored("1.1"), stored("1.2"), stored("1.2")):
        querying.plane.report(report)
    await asyncio.wait_for(querying.answered.wait(), 5)
    assert querying.expected() == [41]
    await querying.plane.finish(within(5.0))
    assert querying.asked == ["1.2.3"]
    assert querying.recorder.calls[0] == ("completed", 2, ("A",))


async def test_a_recovered_series_is_queried_once_another_instance_is_stored() -> None:
    querying = QueryingControlPlane()
    await querying.plane.start([(SERIES, ("OLD",), frozenset({"1.1", "1.2"}))])
    assert querying.asked == []
    for report in (began(), stored("1.1", at=time.monotonic())):
        querying.plane.report(report)
    await asyncio.wait_for(querying.answered.wait(), 5)
    assert querying.expected() == [41]
    await querying.plane.finish(within(5.0))


async def test_an_instance_counts_even_if_its_count_query_cannot_be_started(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    querying = QueryingControlPlane()
    await querying.plane.start([])
    with monkeypatch.context() as patch:
        patch.setattr("threading.Thread.start", start)
        for report in (began(), stored("1.1"), stored("1.2")):
            querying.plane.report(report)
        querying.plane.worker_lost([], [])  # which processes all reports first
    assert [series.received for series in querying.tracker.latest(100)] == [2]
    assert "PACS query could not be started" in caplog.text
    await querying.plane.finish(within(5.0))
