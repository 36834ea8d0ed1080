"""Observers of the control plane: each receives every event, none affects another, and events that
none receives cost nothing."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider

import oxidicom
from oxidicom.app.lonk_observer import LonkObserver
from oxidicom.association_tally import AssociationTally
from oxidicom.observers import (
    Observer,
    Observers,
    RegistrationOutcome,
    SeriesCounted,
    SeriesRegistered,
    TraceContext,
)
from oxidicom.ports import SeriesProgress
from oxidicom.telemetry.metrics import Measurements
from oxidicom.telemetry.tracing import Spans
from tests.support.otlp import SERIES, began, registered, stored
from tests.support.timing import BUSY_MACHINE_S
from tests.unit import test_control_plane, test_status_board

SOURCE = str(Path(oxidicom.__file__).parent)

EVENTS = [
    name
    for name in vars(Observer)
    if not name.startswith("_") and callable(getattr(Observer, name))
]


class Recording(Observer):
    """Defines every method of an observer; `fails` makes each of them raise."""

    def __init__(self, fails: bool = False) -> None:
        self.calls: list[str] = []
        self._fails = fails

    def receive(self, name: str) -> None:
        self.calls.append(name)
        if self._fails:
            raise RuntimeError("P1")


def method(name: str) -> Any:
    def receive(observer: Recording, record: object) -> None:
        observer.receive(name)

    receive.__qualname__ = f"Recording.{name}"
    return receive


for each in EVENTS:
    setattr(Recording, each, method(each))


@pytest.mark.parametrize("name", EVENTS)
def test_an_observer_that_fails_keeps_no_event_from_the_others(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    before, failing, after = Recording(), Recording(fails=True), Recording()
    observers = Observers([before, failing, after])
    for _ in range(2):
        getattr(observers, name)(1.0)
    times = 1 if name == "shutdown" else 2
    assert before.calls == failing.calls == after.calls == [name] * times
    assert [record.message for record in caplog.records] == ["observer failed"]
    assert caplog.records[0].fields == {"observer": f"Recording.{name}"}  # type: ignore[attr-defined]


def test_after_shutdown_events_are_dropped() -> None:
    observer = Recording()
    observers = Observers([observer])
    observers.shutdown(1.0)
    observers.instance_stored(stored("A", 1))
    observers.outbox_depth(3)
    assert observer.calls == ["shutdown"]


def test_an_observer_that_hangs_at_shutdown_does_not_take_the_time_of_others() -> None:
    released = threading.Event()

    class Hanging(Observer):
        def shutdown(self, timeout_s: float) -> None:
            released.wait(60)

    observer = Recording()
    began_at = time.monotonic()
    Observers([Hanging(), observer]).shutdown(1.0)
    assert time.monotonic() - began_at < 1 + BUSY_MACHINE_S
    released.set()
    assert observer.calls == ["shutdown"]


def test_without_tracing_no_traceparent_is_known() -> None:
    assert TraceContext().of_association("A") is None
    assert TraceContext().begin_http_registration("A", 1) is None


# ---- a new observer --------------------------------------------------------------------------


class Webhook(Observer):
    """An example of a further observer: a class with the methods for its events."""

    def __init__(self) -> None:
        self.posted: list[dict[str, object]] = []

    def series_registered(self, registered: SeriesRegistered) -> None:
        self.posted.append(
            {"series": registered.series.series_instance_uid, "ndicom": registered.ndicom}
        )


def test_a_new_observer_is_one_class_and_one_entry_of_the_list() -> None:
    webhook = Webhook()
    observers = Observers([Recording(), webhook])
    observers.association_began(AssociationTally(began("A")))
    observers.series_registered(registered("A"))
    assert webhook.posted == [{"series": SERIES.series_instance_uid, "ndicom": 1}]


# ---- LONK ------------------------------------------------------------------------------------


class Publisher:
    def __init__(self) -> None:
        self.sent: list[tuple[object, ...]] = []

    def progress(self, series: object, count: int, first: bool) -> None:
        self.sent.append(("progress", count, first))

    def final(self, series: object, received: int) -> None:
        self.sent.append(("final", received))

    def done(self, series: object, received: int) -> None:
        self.sent.append(("done", received))


@pytest.mark.parametrize(
    ("outcome", "received", "ndicom", "sent"),
    [
        (RegistrationOutcome.CONFIRMED, 2, 3, ["final", "done"]),
        (RegistrationOutcome.WAITING, 2, 3, ["final", "done"]),
        (RegistrationOutcome.REFUSED, 2, 3, ["final", "done"]),
        (RegistrationOutcome.EMPTY, 2, 0, ["final", "done"]),
        (RegistrationOutcome.EMPTY, 0, 0, []),
        (RegistrationOutcome.FAILED, 2, 3, ["final"]),
    ],
)
def test_lonk_ends_with_done_once_the_registration_is_safe(
    outcome: RegistrationOutcome, received: int, ndicom: int, sent: list[str]
) -> None:
    publisher = Publisher()
    lonk = LonkObserver(publisher)  # type: ignore[arg-type]
    lonk.series_counted(SeriesCounted(SERIES, received, ndicom))
    lonk.series_registered(registered(received=received, ndicom=ndicom, outcome=outcome))
    assert [message[0] for message in publisher.sent] == sent
    assert {message[1] for message in publisher.sent} <= {2}


def test_lonk_counts_the_files_of_a_recovered_series() -> None:
    publisher = Publisher()
    lonk = LonkObserver(publisher)  # type: ignore[arg-type]
    lonk.series_progressed(SeriesProgress(SERIES, 1, True))
    lonk.series_counted(SeriesCounted(SERIES, 0, 7))
    assert publisher.sent == [("progress", 1, True), ("final", 7)]


# ---- cost ------------------------------------------------------------------------------------


def every_observer() -> list[Observer]:
    return [
        Spans(TracerProvider(shutdown_on_exit=False).get_tracer("oxidicom")),
        Measurements(MeterProvider(shutdown_on_exit=False).get_meter("oxidicom")),
        test_status_board.Bench().board,
    ]


@pytest.mark.parametrize(
    ("observing", "lonk", "most"),
    [(False, False, 6), (False, True, 7), (True, False, 9), (True, True, 10)],
)
async def test_an_instance_costs_few_calls_in_the_control_plane(
    observing: bool, lonk: bool, most: int
) -> None:
    """Calls of the package's own functions for each distinct instance, observers included.

    With LONK the publisher adds its own.
    """
    recorder = test_control_plane.Recorder()
    observers: list[Observer] = every_observer() if observing else []
    if lonk:
        observers.append(LonkObserver(recorder))  # type: ignore[arg-type]
    plane = test_control_plane.plane(recorder)
    plane._observers = Observers(observers)
    plane.report(test_control_plane.began())
    plane.report(test_control_plane.stored("1.0"))
    plane._process_reports()
    for number in range(1, 101):
        plane.report(test_control_plane.stored(f"1.{number}"))
    calls: Counter[str] = Counter()

    def count(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(SOURCE):
            calls[frame.f_code.co_qualname] += 1

    sys.setprofile(count)
    try:
        plane._process_reports()
    finally:
        sys.setprofile(None)
    each = {name: number for name, number in calls.items() if number >= 100}
    assert sum(each.values()) <= 100 * most, each
