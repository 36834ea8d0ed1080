"""The status board: events and a clock in, a ReceiverStatus and metrics out."""

from __future__ import annotations

import gc
import sys
from types import FrameType

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from oxidicom.admin.metrics import Metrics
from oxidicom.admin.model import Check, CheckState, OutboxStatus, ReceiverStatus
from oxidicom.admin.status_board import (
    MAX_FAILURES,
    MAX_HISTORY_SAMPLES,
    MAX_LISTED,
    MAX_RECENT_SERIES,
    StatusBoard,
)
from oxidicom.association_tally import AssociationTally
from oxidicom.observers import (
    RegistrationOutcome,
    RegistrationResolved,
    SeriesRegistered,
)
from oxidicom.ports import (
    AssociationBegan,
    AssociationEnded,
    InstanceRefused,
    InstanceStored,
    SeriesCompleted,
    SeriesInfo,
)
from oxidicom.series.tracker import SeriesTracker

EPOCH = 1_000_000.0
"""Difference between wall time and the clock, in seconds."""


class Health:
    def __init__(self) -> None:
        self.states: dict[str, CheckState] = {"storage": "ok", "broker": "ok", "draining": "ok"}
        self.standing = OutboxStatus()

    def checks(self) -> list[Check]:
        return [
            Check(name=name, state=state, detail=f"it is {state}")
            for name, state in self.states.items()
        ]

    def outbox(self) -> OutboxStatus:
        return self.standing


class Bench:
    """A status board and its tracker, with the events that the control plane would send."""

    def __init__(self) -> None:
        self.now = 100.0
        self.tracker = SeriesTracker(settle=1.0, recovery_settle=30.0)
        self.health = Health()
        self.tallies: dict[str, AssociationTally] = {}
        self.board = StatusBoard(
            version="1.2.3",
            aet="ChRIS",
            workers=1,
            series=self.tracker,
            health=self.health,
            clock=lambda: self.now,
            wall=lambda: EPOCH + self.now,
        )
        self.metrics = Metrics(self.board)

    @property
    def status(self) -> ReceiverStatus:
        """Return the status after a round trip through JSON."""
        return msgspec.json.decode(msgspec.json.encode(self.board.status()), type=ReceiverStatus)

    def samples(self) -> dict[str, float]:
        text, _ = self.metrics.page("")
        return {
            sample.name + "".join(f" {value}" for value in sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text.decode())
            for sample in family.samples
        }

    def began(self, name: str = "A", title: str = "CT1", address: str = "10.0.0.1") -> None:
        wall_ns = round((EPOCH + self.now) * 1e9)
        report = AssociationBegan(name, address, 4711, title, "ChRIS", self.now, wall_ns)
        tally = self.tallies[name] = AssociationTally(report)
        self.board.association_began(tally)

    def ended(self, name: str = "A", error: str | None = None) -> None:
        report = AssociationEnded(name, error, 0, self.now, 0)
        for notice in self.tracker.association_ended(report):
            assert isinstance(notice, SeriesCompleted)
            self.board.series_completed(notice)
        self.board.association_ended(report)

    def stored(
        self, series: SeriesInfo, number: int, name: str = "A", seconds: float = 1e-3
    ) -> None:
        report = InstanceStored(name, series, f"9.{number}", 1000, seconds, self.now)
        self.tracker.stored(report)
        if name in self.tallies:
            self.tallies[name].count_stored(report)
        self.board.instance_stored(report)

    def refused(self, error: str = "no space", status: int = 0xA700, name: str = "A") -> None:
        report = InstanceRefused(name, "CT1", "CT1", "1.2", status, error, self.now)
        if name in self.tallies:
            self.tallies[name].count_refused(report)
        self.board.instance_refused(report)

    def complete(self, *, settled: float = 2.0) -> list[SeriesCompleted]:
        self.now += settled
        completed = [
            each for each in self.tracker.due(self.now) if isinstance(each, SeriesCompleted)
        ]
        for each in completed:
            self.board.series_completed(each)
        return completed

    def registered(
        self,
        completed: SeriesCompleted,
        outcome: RegistrationOutcome = RegistrationOutcome.CONFIRMED,
    ) -> None:
        wall_ns = round((EPOCH + self.now) * 1e9)
        self.board.series_registered(
            SeriesRegistered(
                completed.series,
                completed.associations,
                completed.received,
                completed.received,
                wall_ns,
                wall_ns,
                outcome,
                None if outcome is RegistrationOutcome.CONFIRMED else f"it is {outcome.value}",
                completed.expected,
            )
        )


def series_of(number: int = 1, modality: str | None = "CT") -> SeriesInfo:
    return SeriesInfo(
        calling_ae_title="CT1",
        pacs_name="CT1",
        path=f"SERVICES/PACS/CT1/p/s/{number}",
        patient_id="SECRET",
        patient_name="SECRET",
        study_date="2024-01-31",
        study_instance_uid="1.2",
        series_instance_uid=f"1.2.{number}",
        modality=modality,
    )


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_the_status_of_a_new_receiver_is_empty(bench: Bench) -> None:
    status = bench.status
    assert (status.version, status.aet, status.workers) == ("1.2.3", "ChRIS", 1)
    assert status.started_at == status.now == EPOCH + 100
    assert status.ready
    lists = (status.associations, status.series, status.recent_series, status.failures)
    assert lists == ([], [], [], [])
    assert status.totals == type(status.totals)()


def test_an_open_association_is_listed_with_its_counts(bench: Bench) -> None:
    bench.began()
    bench.now += 1
    bench.stored(series_of(), 1)
    bench.stored(series_of(), 2)
    bench.stored(series_of(), 2)
    bench.refused()
    (association,) = bench.status.associations
    assert (association.ulid, association.calling_aet, association.called_aet) == (
        "A",
        "CT1",
        "ChRIS",
    )
    assert (association.peer, association.since) == ("10.0.0.1:4711", EPOCH + 100)
    assert (association.stored, association.refused, association.bytes) == (3, 1, 3000)
    (series,) = bench.status.series
    assert (series.pacs_name, series.series_instance_uid, series.modality) == ("CT1", "1.2.1", "CT")
    assert (series.received, series.expected, series.state) == (2, None, "receiving")
    assert (series.since, series.latest) == (EPOCH + 101, EPOCH + 101)
    totals = bench.status.totals
    assert (totals.associations, totals.instances, totals.refused, totals.bytes) == (1, 3, 1, 3000)
    assert bench.status.associations_open == bench.status.series_open == 1


def test_a_series_from_reception_to_registration(bench: Bench) -> None:
    bench.began()
    bench.stored(series_of(), 1)
    bench.tracker.expect(series_of().key, 5)
    bench.ended()
    assert bench.status.series[0].state == "settling"
    assert bench.status.series[0].expected == 5
    (completed,) = bench.complete()
    (series,) = bench.status.series
    assert (series.state, series.received, series.expected) == ("registering", 1, 5)
    assert bench.status.series_open == 1
    bench.board.registration_resolved(RegistrationResolved(completed.series.key, None))
    bench.registered(completed)
    assert bench.status.series == []
    assert bench.status.series_open == 0
    (recent,) = bench.status.recent_series
    assert (recent.state, recent.received, recent.expected) == ("registered", 1, 5)
    assert recent.ended == EPOCH + bench.now
    assert bench.status.totals.series_registered == 1


@pytest.mark.parametrize(
    ("outcome", "failures"),
    [
        (RegistrationOutcome.REFUSED, []),
        (RegistrationOutcome.EMPTY, ["it is empty"]),
        (RegistrationOutcome.FAILED, ["it is failed"]),
    ],
)
def test_a_refusal_is_listed_once_as_a_failure(
    bench: Bench, outcome: RegistrationOutcome, failures: list[str]
) -> None:
    """A refusal by CUBE is listed by `registration_resolved`."""
    bench.began()
    bench.stored(series_of(), 1)
    bench.ended()
    (completed,) = bench.complete()
    bench.registered(completed, outcome)
    assert bench.status.recent_series[0].state == "refused"
    assert [failure.reason for failure in bench.status.failures] == failures


@pytest.mark.parametrize(
    ("refusal", "state"), [(None, "registered"), ("it is too long", "refused")]
)
def test_a_waiting_series_is_updated_when_its_registration_leaves_the_outbox(
    bench: Bench, refusal: str | None, state: str
) -> None:
    bench.began()
    bench.stored(series_of(), 1)
    bench.ended()
    (completed,) = bench.complete()
    bench.registered(completed, RegistrationOutcome.WAITING)
    assert bench.status.recent_series[0].state == "waiting"
    assert bench.status.failures == []
    bench.board.registration_resolved(RegistrationResolved(completed.series.key, refusal))
    assert bench.status.recent_series[0].state == state
    assert [each.reason for each in bench.status.failures] == ([refusal] if refusal else [])
    totals = bench.status.totals
    counted = (1, 0) if refusal is None else (0, 1)
    assert (totals.series_registered, totals.series_refused) == counted


def test_an_aborted_association_is_a_failure(bench: Bench) -> None:
    bench.began()
    bench.ended(error="aborted by the peer")
    (failure,) = bench.status.failures
    assert (failure.kind, failure.who, failure.reason, failure.status) == (
        "association",
        "CT1 10.0.0.1",
        "aborted by the peer",
        None,
    )
    assert bench.status.totals.associations_aborted == 1
    assert bench.status.associations == []


def test_equal_failures_in_a_row_are_counted(bench: Bench) -> None:
    bench.began()
    for _ in range(3):
        bench.now += 1
        bench.refused()
    bench.refused(status=0xC000)
    assert [(each.status, each.count) for each in bench.status.failures] == [
        ("C000H", 1),
        ("A700H", 3),
    ]
    assert bench.status.failures[1].at == EPOCH + bench.now


def test_a_check_that_fails_is_recorded_once_as_a_failure(bench: Bench) -> None:
    bench.board.sample()
    for state in ("failed", "failed", "ok", "failed"):
        bench.health.states["storage"] = state
        bench.board.sample()
    bench.health.states["broker"] = "degraded"
    bench.health.states["draining"] = "failed"
    bench.board.sample()
    assert [(each.kind, each.who, each.count) for each in bench.status.failures] == [
        ("broker", "broker", 1),
        ("storage", "storage", 2),
    ]
    assert not bench.status.ready
    bench.health.states.update(storage="ok", draining="ok")
    assert bench.status.ready, "an unreachable broker does not keep the receiver from receiving"


def test_rates_and_history(bench: Bench) -> None:
    bench.began()
    for number in range(50):
        bench.stored(series_of(), number)
    bench.now += 2  # a tick that comes late
    bench.board.sample()
    assert (bench.status.now_rates.instances, bench.status.now_rates.bytes) == (25, 25_000)
    for _ in range(MAX_HISTORY_SAMPLES):
        bench.now += 1
        bench.board.sample()
    samples = bench.board.history().samples
    assert len(samples) == MAX_HISTORY_SAMPLES
    assert samples[0] == (EPOCH + 103, 0, 0, 1)
    assert samples[-1] == (EPOCH + bench.now, 0, 0, 1)


def test_lists_are_bounded_and_latest_first(bench: Bench) -> None:
    for number in range(MAX_LISTED + 5):
        bench.now += 1
        bench.began(str(number))
        bench.stored(series_of(number), number, str(number))
    for number in range(MAX_FAILURES + 5):
        bench.refused(error=str(number))
    status = bench.status
    assert (status.associations_open, status.series_open) == (MAX_LISTED + 5, MAX_LISTED + 5)
    assert [each.ulid for each in status.associations[:2]] == ["104", "103"]
    assert [each.series_instance_uid for each in status.series[:2]] == ["1.2.104", "1.2.103"]
    assert [each.reason for each in status.failures[:2]] == ["54", "53"]
    lengths = (len(status.associations), len(status.series), len(status.failures))
    assert lengths == (MAX_LISTED, MAX_LISTED, MAX_FAILURES)
    for number in range(MAX_LISTED + 5):
        bench.ended(str(number))
    for completed in bench.complete():
        bench.registered(completed)
    assert len(bench.status.recent_series) == MAX_RECENT_SERIES


def test_texts_that_peers_choose_are_cut_and_made_valid(bench: Bench) -> None:
    bench.began(title="\udcff" + "x" * 300)
    hostile = msgspec.structs.replace(
        series_of(modality="\udcff" * 300), series_instance_uid="1" * 70_000
    )
    bench.stored(hostile, 1)
    bench.refused(error="\udcff" * 10_000)
    status = bench.status
    assert len(status.associations[0].calling_aet) == 64
    assert len(status.series[0].series_instance_uid) == 64
    assert status.series[0].modality is None
    assert len(status.failures[0].reason) == 200


def test_the_status_holds_no_patient_data(bench: Bench) -> None:
    bench.began()
    bench.stored(series_of(), 1)
    bench.ended()
    for completed in bench.complete():
        bench.registered(completed)
    assert b"SECRET" not in msgspec.json.encode(bench.board.status())


def calls(bench: Bench) -> int:
    """Return the number of calls of Python functions for one ReceiverStatus."""
    entered = 0

    def count(frame: FrameType, kind: str, argument: object) -> None:
        nonlocal entered
        entered += kind == "call"

    gc.collect()  # other tests' finalizers are none of our calls
    gc.disable()
    sys.setprofile(count)
    try:
        bench.board.status()
    finally:
        sys.setprofile(None)
        gc.enable()
    return entered


def test_a_status_costs_one_comparison_more_for_each_open_series(bench: Bench) -> None:
    bench.began()
    for number in range(1000):
        bench.stored(series_of(number), number)
    thousand = calls(bench)
    for number in range(1000, 2000):
        bench.stored(series_of(number), number)
    assert calls(bench) - thousand == 1000
    assert thousand < 1000 + 12 * MAX_LISTED


def test_metrics(bench: Bench) -> None:
    bench.began()
    bench.stored(series_of(), 1, seconds=0.0003)
    bench.stored(series_of(2), 2, seconds=99)
    bench.refused()
    bench.ended(error="aborted")
    bench.began("B")
    bench.board.lonk_dropped(7)
    bench.board.registration_resolved(RegistrationResolved(series_of().key, None))
    bench.health.standing = OutboxStatus(pending=4, refused=2, oldest_at=5.0)
    bench.health.states["broker"] = "degraded"
    samples = bench.samples()
    assert (
        samples.items()
        >= {
            "oxidicom_build_info 1.2.3": 1,
            "oxidicom_associations_total ok": 0,
            "oxidicom_associations_total error": 1,
            "oxidicom_associations_open": 1,
            "oxidicom_instances_total 0000": 2,
            "oxidicom_instances_total A700": 1,
            "oxidicom_bytes_total": 2000,
            "oxidicom_store_latency_seconds_bucket 0.00025": 0,
            "oxidicom_store_latency_seconds_bucket 0.0005": 1,
            "oxidicom_store_latency_seconds_bucket 10.0": 1,
            "oxidicom_store_latency_seconds_bucket +Inf": 2,
            "oxidicom_store_latency_seconds_count": 2,
            "oxidicom_store_latency_seconds_sum": 99.0003,
            "oxidicom_series_open": 2,
            "oxidicom_series_registered_total ok": 1,
            "oxidicom_series_registered_total error": 0,
            "oxidicom_outbox_depth": 4,
            "oxidicom_outbox_refused": 2,
            "oxidicom_outbox_oldest_timestamp_seconds": 5,
            "oxidicom_lonk_dropped_total": 7,
            "oxidicom_ready": 1,
            "oxidicom_check_ok storage": 1,
            "oxidicom_check_ok broker": 0,
        }.items()
    )
    assert samples["process_resident_memory_bytes"] > 1e6


def test_the_number_of_metrics_is_bounded_whatever_peers_send(bench: Bench) -> None:
    before = len(bench.samples())
    for number in range(300):
        bench.began(str(number), title=f"TITLE{number}", address=f"10.0.0.{number}")
        bench.stored(series_of(number, modality=f"M{number}"), number, str(number))
        bench.ended(str(number), error=f"because {number}")
    assert len(bench.samples()) == before
