"""The series tracker: when a series is complete, and what is counted (decisions 26 to 32, 38)."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from oxidicom.ports import (
    AssociationEnded,
    InstanceRefused,
    InstanceStored,
    Notice,
    SeriesCompleted,
    SeriesFailed,
    SeriesInfo,
    SeriesKey,
    SeriesProgress,
)
from oxidicom.series.tracker import MAX_ENDED_ASSOCIATIONS, SeriesTracker


def series(uid: str = "1.2", pacs_name: str = "PACS", path: str = "first") -> SeriesInfo:
    return SeriesInfo(
        calling_ae_title=pacs_name,
        pacs_name=pacs_name,
        path=f"SERVICES/PACS/{pacs_name}/{path}",
        patient_id="P",
        study_date="2020-01-02",
        study_instance_uid="1",
        series_instance_uid=uid,
    )


def stored(
    association: str, instance: str, at: float, info: SeriesInfo | None = None
) -> InstanceStored:
    return InstanceStored(association, info or series(), instance, 512, 0.001, at)


def refused(
    association: str, at: float, uid: str | None = "1.2", pacs_name: str = "PACS"
) -> InstanceRefused:
    return InstanceRefused(association, "PACS 1", pacs_name, uid, 0xC000, "no", at)


def ended(association: str, at: float, error: str | None = None) -> AssociationEnded:
    return AssociationEnded(association, error, 512, at, 0)


def progress(count: int, info: SeriesInfo | None = None) -> SeriesProgress:
    return SeriesProgress(info or series(), count, count == 1)


def completed(
    received: int,
    *associations: str,
    info: SeriesInfo | None = None,
    attempted: int | None = None,
    expected: int | None = None,
) -> SeriesCompleted:
    """Return a notice; all instances were stored and sent once, unless `attempted` is given."""
    return SeriesCompleted(
        info or series(),
        received,
        associations,
        received if attempted is None else attempted,
        expected,
    )


def uid_of(notice: Notice) -> str:
    assert isinstance(notice, SeriesCompleted)
    return notice.series.series_instance_uid


def open_without_times(tracker: SeriesTracker) -> list[tuple[SeriesInfo, int, int, int | None]]:
    """Return the open series as the status board gets them, without their times."""
    return [line[:4] for line in tracker.latest(100)]


@pytest.fixture
def tracker() -> SeriesTracker:
    return SeriesTracker(settle=1.0, recovery_settle=30.0)


def test_a_series_of_one_association_is_complete_after_the_settle_time(
    tracker: SeriesTracker,
) -> None:
    assert tracker.stored(stored("a", "1", 10)) == [progress(1)]
    assert tracker.stored(stored("a", "2", 11)) == [progress(2)]
    assert tracker.next_deadline() is None
    assert tracker.due(1_000) == []
    assert open_without_times(tracker) == [(series(), 2, 1, None)]
    assert tracker.association_ended(ended("a", 1_001)) == []
    assert open_without_times(tracker) == [(series(), 2, 0, None)]
    assert tracker.next_deadline() == 1_002
    assert tracker.due(1_001.9) == []
    assert tracker.due(1_002) == [completed(2, "a")]
    assert tracker.due(2_000) == []
    assert tracker.next_deadline() is None
    assert open_without_times(tracker) == []


@pytest.mark.parametrize("error", [None, "peer aborted"])
def test_a_series_is_complete_however_its_association_ended(
    tracker: SeriesTracker, error: str | None
) -> None:
    """Decision 31."""
    tracker.stored(stored("a", "1", 0))
    tracker.association_ended(ended("a", 1, error))
    assert tracker.due(2) == [completed(1, "a")]


def test_a_repeated_instance_is_not_counted_again(tracker: SeriesTracker) -> None:
    """Decision 29."""
    assert tracker.stored(stored("a", "1", 0)) == [progress(1)]
    assert tracker.stored(stored("a", "1", 1)) == []
    assert tracker.stored(stored("b", "1", 2)) == []
    assert tracker.finish_all(3) == [completed(1, "a", "b", attempted=3)]


def test_expected_count_and_first_association_of_an_open_series(tracker: SeriesTracker) -> None:
    key = SeriesKey("PACS", "1.2")
    assert tracker.expected_of(key) is None
    assert tracker.carrier_of(key) is None
    tracker.stored(stored("b", "1", 1))
    tracker.stored(stored("a", "2", 2))
    assert tracker.expected_of(key) is None
    assert tracker.carrier_of(key) == "b"
    tracker.expect(key, 7)
    assert tracker.expected_of(key) == 7
    tracker.finish_all(3)
    assert tracker.expected_of(key) is None
    assert tracker.carrier_of(key) is None


def test_the_expected_count_is_in_the_notice_of_completion(tracker: SeriesTracker) -> None:
    tracker.expect(SeriesKey("PACS", "1.2"), 7)
    tracker.stored(stored("a", "1", 0))
    assert open_without_times(tracker) == [(series(), 1, 1, None)], (
        "the count came before the series was open"
    )
    tracker.expect(SeriesKey("PACS", "1.2"), 3)
    tracker.refused(refused("a", 0))
    assert open_without_times(tracker) == [(series(), 1, 1, 3)]
    assert tracker.finish_all(1) == [completed(1, "a", attempted=2, expected=3)]


def test_overlapping_associations_carry_one_session(tracker: SeriesTracker) -> None:
    tracker.stored(stored("a", "1", 0))
    tracker.stored(stored("b", "2", 0))
    tracker.association_ended(ended("a", 1))
    assert tracker.due(100) == []
    tracker.association_ended(ended("b", 100))
    assert tracker.due(101) == [completed(2, "a", "b")]


def test_an_association_within_the_settle_time_continues_the_session(
    tracker: SeriesTracker,
) -> None:
    """Decision 28: Orthanc splits a series over associations one after another."""
    for turn in range(5):
        association = f"a{turn}"
        assert tracker.stored(stored(association, str(turn), turn * 0.9)) == [progress(turn + 1)]
        assert tracker.association_ended(ended(association, turn * 0.9)) == []
        assert tracker.due(turn * 0.9 + 0.8) == []
    assert tracker.next_deadline() == pytest.approx(4 * 0.9 + 1)
    assert tracker.due(100) == [completed(5, "a0", "a1", "a2", "a3", "a4")]


def test_an_instance_after_the_completion_begins_another_session(tracker: SeriesTracker) -> None:
    for turn, association in enumerate("ab"):
        assert tracker.stored(stored(association, "1", turn * 10)) == [progress(1)]
        tracker.association_ended(ended(association, turn * 10))
        assert tracker.due(turn * 10 + 1) == [completed(1, association)]


def test_the_settle_time_begins_at_the_last_instance_or_end(tracker: SeriesTracker) -> None:
    """Reports of two workers may arrive in any order."""
    tracker.stored(stored("a", "1", 5))
    tracker.stored(stored("b", "2", 7))
    tracker.association_ended(ended("b", 8))
    tracker.association_ended(ended("a", 6))
    assert tracker.next_deadline() == 9
    tracker.stored(stored("c", "3", 20, series("1.3")))
    tracker.association_ended(ended("c", 19))
    assert tracker.due(9) == [completed(2, "a", "b")]
    assert tracker.next_deadline() == 21


def test_without_a_settle_time_the_end_of_the_association_completes_the_series() -> None:
    tracker = SeriesTracker(settle=0, recovery_settle=30)
    tracker.stored(stored("a", "1", 0))
    tracker.stored(stored("b", "2", 0))
    tracker.stored(stored("b", "2", 9, series("1.3")))
    assert tracker.association_ended(ended("a", 1)) == []
    assert sorted(tracker.association_ended(ended("b", 1)), key=uid_of) == [
        completed(2, "a", "b"),
        completed(1, "b", info=series("1.3")),
    ]
    assert open_without_times(tracker) == []
    assert tracker.stored(stored("b", "3", 2)) == [progress(1), completed(1, "b")]


def test_a_completed_session_keeps_no_instances_in_memory() -> None:
    tracker = SeriesTracker(settle=0, recovery_settle=30)
    tracker.recovered(series(), ("x",), 0)
    tracker.stored(stored("a", "1", 31))
    assert tracker.association_ended(ended("a", 31)) == [completed(1, "x", "a")]
    assert [session.instances for *_, session in tracker._queue] == [set()]
    assert tracker.next_deadline() is None
    assert tracker._queue == []


def test_the_first_instance_gives_the_record_of_the_series(tracker: SeriesTracker) -> None:
    """Decision 26."""
    tracker.stored(stored("a", "1", 0))
    assert tracker.stored(stored("b", "2", 0, series(path="second"))) == [progress(2)]
    assert tracker.finish_all(0) == [completed(2, "a", "b")]


def test_one_uid_of_two_pacs_is_two_series(tracker: SeriesTracker) -> None:
    """Decision 28."""
    assert tracker.stored(stored("a", "1", 0)) == [progress(1)]
    other = series(pacs_name="OTHER")
    assert tracker.stored(stored("b", "1", 0, other)) == [progress(1, other)]
    assert len(open_without_times(tracker)) == 2


@pytest.mark.parametrize("uid", [None, "1.2"])
def test_a_series_of_refused_instances_only_is_not_opened(
    tracker: SeriesTracker, uid: str | None
) -> None:
    """Decision 30: nothing stored, nothing registered."""
    assert tracker.refused(refused("a", 0, uid)) == [SeriesFailed("PACS 1", uid, "no")]
    assert tracker.association_ended(ended("a", 1)) == []
    assert open_without_times(tracker) == []
    assert tracker.next_deadline() is None
    assert tracker.finish_all(100) == []


def test_a_refused_instance_keeps_an_open_series_open(
    tracker: SeriesTracker,
) -> None:
    tracker.stored(stored("a", "1", 0))
    tracker.association_ended(ended("a", 0))
    assert tracker.refused(refused("b", 0.5)) == [SeriesFailed("PACS 1", "1.2", "no")]
    assert tracker.due(100) == []
    tracker.association_ended(ended("b", 100))
    assert tracker.due(101) == [completed(1, "a", "b", attempted=2)]


def test_a_report_after_the_end_of_its_association_settles_at_once(tracker: SeriesTracker) -> None:
    tracker.association_ended(ended("a", 1))
    assert tracker.stored(stored("a", "1", 0.9)) == [progress(1)]
    assert open_without_times(tracker) == [(series(), 1, 0, None)]
    assert tracker.next_deadline() == 1.9
    tracker.stored(stored("a", "2", 1.5))
    assert tracker.due(2.4) == []
    assert tracker.due(2.5) == [completed(2, "a")]


def test_a_report_after_the_end_of_its_association_does_not_end_the_session_of_others(
    tracker: SeriesTracker,
) -> None:
    tracker.association_ended(ended("a", 1))
    tracker.stored(stored("b", "1", 1))
    tracker.stored(stored("a", "2", 1))
    assert tracker.next_deadline() is None
    tracker.association_ended(ended("b", 2))
    assert tracker.due(3) == [completed(2, "b", "a")]


def test_a_bounded_number_of_ended_associations_is_remembered(tracker: SeriesTracker) -> None:
    for number in range(MAX_ENDED_ASSOCIATIONS + 1):
        tracker.association_ended(ended(str(number), 0))
    tracker.stored(stored("1", "1", 0, series("1.3")))
    tracker.stored(stored("0", "1", 0, series("1.4")))
    assert [line.associations for line in tracker.latest(100)] == [0, 1]
    assert len(tracker._ended) == MAX_ENDED_ASSOCIATIONS


def test_the_associations_of_a_dead_worker_have_ended(tracker: SeriesTracker) -> None:
    tracker.stored(stored("a", "1", 0))
    tracker.stored(stored("b", "2", 0))
    tracker.stored(stored("c", "1", 0, series("1.3")))
    assert tracker.associations_lost(["a", "b", "unknown"], 50) == []
    assert tracker.due(51) == [completed(2, "a", "b")]
    assert tracker.associations_lost(["a", "b"], 60) == []
    assert tracker.next_deadline() is None
    assert open_without_times(tracker) == [(series("1.3"), 1, 1, None)]


def test_a_recovered_series_is_complete_after_the_recovery_settle_time(
    tracker: SeriesTracker,
) -> None:
    """Decision 32."""
    tracker.recovered(series(), ("x", "y"), 100)
    assert open_without_times(tracker) == [(series(), 0, 0, None)]
    assert tracker.next_deadline() == 130
    assert tracker.due(129.9) == []
    assert tracker.due(130) == [completed(0, "x", "y")]


def test_a_recovered_series_waits_at_least_for_the_settle_time() -> None:
    tracker = SeriesTracker(settle=300, recovery_settle=30)
    tracker.recovered(series(), ("x",), 0)
    assert tracker.next_deadline() == 300


def test_a_recovered_series_that_is_sent_again_is_open(tracker: SeriesTracker) -> None:
    tracker.recovered(series(path="before the crash"), ("x",), 100)
    before = series(path="before the crash")
    assert tracker.stored(stored("a", "1", 110)) == [progress(1, before)]
    assert tracker.next_deadline() is None
    assert tracker.due(1_000) == []
    tracker.association_ended(ended("a", 1_000))
    assert tracker.due(1_001) == [completed(1, "x", "a", info=before)]


def test_a_recovered_series_sent_again_still_waits_for_the_recovery_settle_time(
    tracker: SeriesTracker,
) -> None:
    """Decision 32: a sender may resend over many short associations."""
    tracker.recovered(series(), ("x",), 100)
    tracker.stored(stored("a", "1", 101))
    tracker.association_ended(ended("a", 102))
    assert tracker.next_deadline() == 130
    assert tracker.due(129.9) == []
    assert tracker.due(130) == [completed(1, "x", "a")]
    tracker.stored(stored("b", "1", 131))
    tracker.association_ended(ended("b", 132))
    assert tracker.due(133) == [completed(1, "b")], "the next session has the usual settle time"


def test_the_count_of_a_recovered_series_continues_from_its_folder(tracker: SeriesTracker) -> None:
    """Decision 29: counts never fall, and a repeat is not counted again."""
    tracker.recovered(series(), ("x",), 100, ("1", "2"))
    assert tracker.stored(stored("a", "2", 101)) == []
    assert tracker.stored(stored("a", "3", 101)) == [progress(3)]


def test_a_recovered_series_sent_after_the_recovery_settle_time_waits_for_the_settle_time(
    tracker: SeriesTracker,
) -> None:
    tracker.recovered(series(), ("x",), 100)
    for association, end in (("a", 102), ("b", 139)):
        tracker.stored(stored(association, association, 101))
        tracker.association_ended(ended(association, end))
    assert tracker.due(131) == []
    assert len(tracker._queue) == 1, "the two earlier deadlines are not kept"
    assert tracker.due(140) == [completed(2, "x", "a", "b")]
    assert tracker.next_deadline() is None


def test_an_open_series_that_is_recovered_waits_for_the_recovery_settle_time(
    tracker: SeriesTracker,
) -> None:
    tracker.stored(stored("a", "1", 100))
    tracker.recovered(series(), ("x",), 100)
    tracker.association_ended(ended("a", 101))
    assert tracker.due(129.9) == []
    assert tracker.due(130) == [completed(1, "a", "x")]


def test_a_settling_series_that_is_recovered_waits_for_the_recovery_settle_time(
    tracker: SeriesTracker,
) -> None:
    """Its worker died before it reported the last instances, and senders may send them again."""
    tracker.stored(stored("a", "1", 100))
    tracker.association_ended(ended("a", 100))
    tracker.recovered(series(), ("b",), 100.5, {"1", "2"})
    assert tracker.due(130.4) == []
    assert tracker.due(130.5) == [completed(2, "a", "b")]


def test_record_of_an_open_series_and_end_of_an_association(tracker: SeriesTracker) -> None:
    tracker.stored(stored("a", "1", 100))
    assert tracker.series_of(series().key) == series()
    assert not tracker.has_ended("a")
    tracker.association_ended(ended("a", 100))
    assert tracker.has_ended("a")
    tracker.finish_all(100)
    assert tracker.series_of(series().key) is None


def test_shutdown_completes_every_series_at_once(tracker: SeriesTracker) -> None:
    """Decision 38."""
    tracker.stored(stored("open", "1", 0, series("1.1")))
    tracker.stored(stored("a", "1", 0, series("1.2")))
    tracker.association_ended(ended("a", 0))
    tracker.recovered(series("1.3"), ("x",), 0)
    assert tracker.finish_all(0.5) == [
        completed(1, "open", info=series("1.1")),
        completed(1, "a", info=series("1.2")),
        completed(0, "x", info=series("1.3")),
    ]
    assert tracker.finish_all(0.5) == []
    assert tracker.association_ended(ended("open", 1)) == []
    assert tracker.next_deadline() is None


def test_counts_are_those_of_the_reference() -> None:
    """With two differences: every progress is reported, of which the LONK publisher sends some, and
    a repeated instance is not counted (decision 29)."""
    vectors = json.loads((Path(__file__).parents[1] / "support" / "vectors.json").read_text())
    cases = {
        "one instance": "1",
        "two instances, any speed": "12",
        "five instances within one interval": "12345",
        "interval 0s, three instances": "123",
        "same SOP instance sent twice": "11",
        "three instances, second lacks StudyDate": "1-2",
    }
    assert {case["name"] for case in vectors["sequences"]} == set(cases)
    for case in vectors["sequences"]:
        tracker = SeriesTracker(0, 0)
        notices: list[Notice] = []
        for instance in cases[case["name"]]:
            if instance == "-":
                notices += tracker.refused(refused("a", 0))
            else:
                notices += tracker.stored(stored("a", instance, 0))
        (done,) = tracker.association_ended(ended("a", 0))
        assert isinstance(done, SeriesCompleted)
        distinct = len(set(cases[case["name"]]) - {"-"})
        assert done.received == distinct
        if "twice" not in case["name"]:
            assert [done.received] == case["celery_ndicom"]
        counts = [notice.received for notice in notices if isinstance(notice, SeriesProgress)]
        assert counts == list(range(1, distinct + 1))
        errors = sum(isinstance(notice, SeriesFailed) for notice in notices)
        assert errors == cases[case["name"]].count("-")


def test_the_cost_of_a_call_does_not_depend_on_the_open_series() -> None:
    """50,000 calls of `due` with 10,000 open and 10,000 settling series."""
    tracker = SeriesTracker(settle=60, recovery_settle=60)
    for number in range(20_000):
        tracker.stored(stored(f"a{number}", "1", 0, series(str(number))))
        if number % 2:
            tracker.association_ended(ended(f"a{number}", number / 20_000))
    began = time.process_time()
    for turn in range(50_000):
        assert tracker.due(turn / 1_000) == []
        assert tracker.next_deadline() is not None
    assert time.process_time() - began < 2, "scanning all series would take minutes"
    assert len(tracker.due(61)) == 10_000
    assert tracker.next_deadline() is None


def test_the_queue_has_one_entry_for_each_session(tracker: SeriesTracker) -> None:
    for turn in range(1_000):
        tracker.stored(stored(f"a{turn}", str(turn), turn / 1_000))
        tracker.association_ended(ended(f"a{turn}", turn / 1_000))
    assert len(tracker._queue) == 1
    assert tracker.due(100) == [completed(1_000, *(f"a{turn}" for turn in range(1_000)))]
    assert tracker._queue == []
