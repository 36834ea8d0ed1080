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
from oxidicom.series.tracker import ENDED_REMEMBERED, SeriesTracker


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
    """All that came were stored, each once, unless `attempted` says more."""
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


def lines(tracker: SeriesTracker) -> list[tuple[SeriesInfo, int, int, int | None]]:
    """Of what is open, without its times."""
    return [line[:4] for line in tracker.open_series()]


@pytest.fixture
def tracker() -> SeriesTracker:
    return SeriesTracker(settle=1.0, recovery_settle=30.0)


def test_one_association(tracker: SeriesTracker) -> None:
    assert tracker.stored(stored("a", "1", 10)) == [progress(1)]
    assert tracker.stored(stored("a", "2", 11)) == [progress(2)]
    assert tracker.next_deadline() is None
    assert tracker.due(1_000) == []
    assert lines(tracker) == [(series(), 2, 1, None)]
    assert tracker.association_ended(ended("a", 1_001)) == []
    assert lines(tracker) == [(series(), 2, 0, None)]
    assert tracker.next_deadline() == 1_002
    assert tracker.due(1_001.9) == []
    assert tracker.due(1_002) == [completed(2, "a")]
    assert tracker.due(2_000) == []
    assert tracker.next_deadline() is None
    assert lines(tracker) == []


@pytest.mark.parametrize("error", [None, "peer aborted"])
def test_every_end_is_an_end(tracker: SeriesTracker, error: str | None) -> None:
    """Decision 31."""
    tracker.stored(stored("a", "1", 0))
    tracker.association_ended(ended("a", 1, error))
    assert tracker.due(2) == [completed(1, "a")]


def test_a_repeat_is_not_counted_again(tracker: SeriesTracker) -> None:
    """Decision 29."""
    assert tracker.stored(stored("a", "1", 0)) == [progress(1)]
    assert tracker.stored(stored("a", "1", 1)) == []
    assert tracker.stored(stored("b", "1", 2)) == []
    assert tracker.finish_all(3) == [completed(1, "a", "b", attempted=3)]


def test_what_is_known_of_an_open_series_may_be_asked(tracker: SeriesTracker) -> None:
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


def test_what_the_pacs_has_is_told_with_what_came(tracker: SeriesTracker) -> None:
    tracker.expect(SeriesKey("PACS", "1.2"), 7)
    tracker.stored(stored("a", "1", 0))
    assert lines(tracker) == [(series(), 1, 1, None)], "asked for before it was open"
    tracker.expect(SeriesKey("PACS", "1.2"), 3)
    tracker.refused(refused("a", 0))
    assert lines(tracker) == [(series(), 1, 1, 3)]
    assert tracker.finish_all(1) == [completed(1, "a", attempted=2, expected=3)]


def test_a_series_over_overlapping_associations_is_one(tracker: SeriesTracker) -> None:
    tracker.stored(stored("a", "1", 0))
    tracker.stored(stored("b", "2", 0))
    tracker.association_ended(ended("a", 1))
    assert tracker.due(100) == []
    tracker.association_ended(ended("b", 100))
    assert tracker.due(101) == [completed(2, "a", "b")]


def test_a_series_touched_while_it_settles_is_one(tracker: SeriesTracker) -> None:
    """Decision 28: Orthanc splits a series over associations one after another."""
    for turn in range(5):
        association = f"a{turn}"
        assert tracker.stored(stored(association, str(turn), turn * 0.9)) == [progress(turn + 1)]
        assert tracker.association_ended(ended(association, turn * 0.9)) == []
        assert tracker.due(turn * 0.9 + 0.8) == []
    assert tracker.next_deadline() == pytest.approx(4 * 0.9 + 1)
    assert tracker.due(100) == [completed(5, "a0", "a1", "a2", "a3", "a4")]


def test_after_completion_another_reception_begins(tracker: SeriesTracker) -> None:
    for turn, association in enumerate("ab"):
        assert tracker.stored(stored(association, "1", turn * 10)) == [progress(1)]
        tracker.association_ended(ended(association, turn * 10))
        assert tracker.due(turn * 10 + 1) == [completed(1, association)]


def test_settling_counts_from_the_later_of_instance_and_end(tracker: SeriesTracker) -> None:
    """Records of two workers may come in any order."""
    tracker.stored(stored("a", "1", 5))
    tracker.stored(stored("b", "2", 7))
    tracker.association_ended(ended("b", 8))
    tracker.association_ended(ended("a", 6))
    assert tracker.next_deadline() == 9
    tracker.stored(stored("c", "3", 20, series("1.3")))
    tracker.association_ended(ended("c", 19))
    assert tracker.due(9) == [completed(2, "a", "b")]
    assert tracker.next_deadline() == 21


def test_without_settling_the_end_of_the_association_completes() -> None:
    tracker = SeriesTracker(settle=0, recovery_settle=30)
    tracker.stored(stored("a", "1", 0))
    tracker.stored(stored("b", "2", 0))
    tracker.stored(stored("b", "2", 9, series("1.3")))
    assert tracker.association_ended(ended("a", 1)) == []
    assert sorted(tracker.association_ended(ended("b", 1)), key=uid_of) == [
        completed(2, "a", "b"),
        completed(1, "b", info=series("1.3")),
    ]
    assert lines(tracker) == []
    assert tracker.stored(stored("b", "3", 2)) == [progress(1), completed(1, "b")]


def test_completion_frees_the_instances_at_once() -> None:
    tracker = SeriesTracker(settle=0, recovery_settle=30)
    tracker.recovered(series(), ("x",), 0)
    tracker.stored(stored("a", "1", 31))
    assert tracker.association_ended(ended("a", 31)) == [completed(1, "x", "a")]
    assert [reception.instances for *_, reception in tracker._queue] == [set()]
    assert tracker.next_deadline() is None
    assert tracker._queue == []


def test_the_first_instance_speaks_for_all(tracker: SeriesTracker) -> None:
    """Decision 26."""
    tracker.stored(stored("a", "1", 0))
    assert tracker.stored(stored("b", "2", 0, series(path="second"))) == [progress(2)]
    assert tracker.finish_all(0) == [completed(2, "a", "b")]


def test_one_uid_of_two_pacs_is_two_series(tracker: SeriesTracker) -> None:
    """Decision 28."""
    assert tracker.stored(stored("a", "1", 0)) == [progress(1)]
    other = series(pacs_name="OTHER")
    assert tracker.stored(stored("b", "1", 0, other)) == [progress(1, other)]
    assert len(lines(tracker)) == 2


@pytest.mark.parametrize("uid", [None, "1.2"])
def test_refused_only(tracker: SeriesTracker, uid: str | None) -> None:
    """Decision 30: nothing stored, nothing registered."""
    assert tracker.refused(refused("a", 0, uid)) == [SeriesFailed("PACS 1", uid, "no")]
    assert tracker.association_ended(ended("a", 1)) == []
    assert lines(tracker) == []
    assert tracker.next_deadline() is None
    assert tracker.finish_all(100) == []


def test_the_sender_of_a_refused_instance_keeps_an_open_series_open(
    tracker: SeriesTracker,
) -> None:
    tracker.stored(stored("a", "1", 0))
    tracker.association_ended(ended("a", 0))
    assert tracker.refused(refused("b", 0.5)) == [SeriesFailed("PACS 1", "1.2", "no")]
    assert tracker.due(100) == []
    tracker.association_ended(ended("b", 100))
    assert tracker.due(101) == [completed(1, "a", "b", attempted=2)]


def test_a_straggler_waits_for_no_end(tracker: SeriesTracker) -> None:
    tracker.association_ended(ended("a", 1))
    assert tracker.stored(stored("a", "1", 0.9)) == [progress(1)]
    assert lines(tracker) == [(series(), 1, 0, None)]
    assert tracker.next_deadline() == 1.9
    tracker.stored(stored("a", "2", 1.5))
    assert tracker.due(2.4) == []
    assert tracker.due(2.5) == [completed(2, "a")]


def test_a_straggler_does_not_close_what_others_keep_open(tracker: SeriesTracker) -> None:
    tracker.association_ended(ended("a", 1))
    tracker.stored(stored("b", "1", 1))
    tracker.stored(stored("a", "2", 1))
    assert tracker.next_deadline() is None
    tracker.association_ended(ended("b", 2))
    assert tracker.due(3) == [completed(2, "b", "a")]


def test_ends_are_remembered_but_not_for_ever(tracker: SeriesTracker) -> None:
    for number in range(ENDED_REMEMBERED + 1):
        tracker.association_ended(ended(str(number), 0))
    tracker.stored(stored("1", "1", 0, series("1.3")))
    tracker.stored(stored("0", "1", 0, series("1.4")))
    assert [line.associations for line in tracker.open_series()] == [0, 1]
    assert len(tracker._ended) == ENDED_REMEMBERED


def test_associations_of_a_dead_worker(tracker: SeriesTracker) -> None:
    tracker.stored(stored("a", "1", 0))
    tracker.stored(stored("b", "2", 0))
    tracker.stored(stored("c", "1", 0, series("1.3")))
    assert tracker.associations_lost(["a", "b", "never seen"], 50) == []
    assert tracker.due(51) == [completed(2, "a", "b")]
    assert tracker.associations_lost(["a", "b"], 60) == []
    assert tracker.next_deadline() is None
    assert lines(tracker) == [(series("1.3"), 1, 1, None)]


def test_recovered_and_left_alone(tracker: SeriesTracker) -> None:
    """Decision 32."""
    tracker.recovered(series(), ("x", "y"), 100)
    assert lines(tracker) == [(series(), 0, 0, None)]
    assert tracker.next_deadline() == 130
    assert tracker.due(129.9) == []
    assert tracker.due(130) == [completed(0, "x", "y")]


def test_recovered_settles_no_faster_than_others() -> None:
    tracker = SeriesTracker(settle=300, recovery_settle=30)
    tracker.recovered(series(), ("x",), 0)
    assert tracker.next_deadline() == 300


def test_recovered_and_sent_again(tracker: SeriesTracker) -> None:
    tracker.recovered(series(path="before the crash"), ("x",), 100)
    before = series(path="before the crash")
    assert tracker.stored(stored("a", "1", 110)) == [progress(1, before)]
    assert tracker.next_deadline() is None
    assert tracker.due(1_000) == []
    tracker.association_ended(ended("a", 1_000))
    assert tracker.due(1_001) == [completed(1, "x", "a", info=before)]


def test_recovered_and_touched_it_settles_not_before_its_recovery_time(
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
    assert tracker.due(133) == [completed(1, "b")], "the next reception owes nothing to it"


def test_recovered_counts_go_on_from_what_its_folder_holds(tracker: SeriesTracker) -> None:
    """Decision 29: counts never fall, and a repeat is not counted again."""
    tracker.recovered(series(), ("x",), 100, ("1", "2"))
    assert tracker.stored(stored("a", "2", 101)) == []
    assert tracker.stored(stored("a", "3", 101)) == [progress(3)]


def test_recovered_then_touched_past_its_recovery_time(tracker: SeriesTracker) -> None:
    tracker.recovered(series(), ("x",), 100)
    for association, end in (("a", 102), ("b", 139)):
        tracker.stored(stored(association, association, 101))
        tracker.association_ended(ended(association, end))
    assert tracker.due(131) == []
    assert len(tracker._queue) == 1, "neither of the two earlier times is kept"
    assert tracker.due(140) == [completed(2, "x", "a", "b")]
    assert tracker.next_deadline() is None


def test_recovered_while_already_open(tracker: SeriesTracker) -> None:
    tracker.stored(stored("a", "1", 100))
    tracker.recovered(series(), ("x",), 100)
    tracker.association_ended(ended("a", 101))
    assert tracker.due(129.9) == []
    assert tracker.due(130) == [completed(1, "a", "x")]


def test_recovered_while_it_settles(tracker: SeriesTracker) -> None:
    """Its worker died, and what it stored last was not told: whoever resends finds it open."""
    tracker.stored(stored("a", "1", 100))
    tracker.association_ended(ended("a", 100))
    tracker.recovered(series(), ("b",), 100.5, {"1", "2"})
    assert tracker.due(130.4) == []
    assert tracker.due(130.5) == [completed(2, "a", "b")]


def test_what_is_known_of_associations_and_series(tracker: SeriesTracker) -> None:
    tracker.stored(stored("a", "1", 100))
    assert tracker.series_of(series().key) == series()
    assert not tracker.has_ended("a")
    tracker.association_ended(ended("a", 100))
    assert tracker.has_ended("a")
    tracker.finish_all(100)
    assert tracker.series_of(series().key) is None


def test_shutdown_waits_for_nothing(tracker: SeriesTracker) -> None:
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


def test_the_references_sequences() -> None:
    """Counts of vectors.json, as amended: all progress is offered, the notifier drops some, and
    a repeat does not count (decision 29)."""
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


def test_many_open_series_do_not_slow_the_next() -> None:
    """An hour's worth of `due` calls over 10,000 open and 10,000 settling series."""
    tracker = SeriesTracker(settle=60, recovery_settle=60)
    for number in range(20_000):
        tracker.stored(stored(f"a{number}", "1", 0, series(str(number))))
        if number % 2:
            tracker.association_ended(ended(f"a{number}", number / 20_000))
    began = time.process_time()
    for turn in range(50_000):
        assert tracker.due(turn / 1_000) == []
        assert tracker.next_deadline() is not None
    assert time.process_time() - began < 2, "a scan of all would take minutes"
    assert len(tracker.due(61)) == 10_000
    assert tracker.next_deadline() is None


def test_the_queue_holds_one_entry_a_series(tracker: SeriesTracker) -> None:
    for turn in range(1_000):
        tracker.stored(stored(f"a{turn}", str(turn), turn / 1_000))
        tracker.association_ended(ended(f"a{turn}", turn / 1_000))
    assert len(tracker._queue) == 1
    assert tracker.due(100) == [completed(1_000, *(f"a{turn}" for turn in range(1_000)))]
    assert tracker._queue == []
