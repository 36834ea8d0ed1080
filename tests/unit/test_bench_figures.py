"""The benchmark's arithmetic, and its open loop's timetable."""

from __future__ import annotations

import random
import statistics
import time

import pytest

from benchmarks.figures import latency_of, median_latency, median_ratio, percentile
from benchmarks.timetable import sleep_until, timetables


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1), (1, 1), (50, 50), (90, 90), (99, 99), (99.9, 100), (100, 100)]
)
def test_a_percentile_is_a_value_that_was_seen(percent: float, expected: int) -> None:
    assert percentile(range(1, 101), percent) == expected


def test_rounding_does_not_move_a_rank() -> None:
    assert percentile(range(1, 1001), 99.9) == 999  # 0.999 * 1000 is a little more than 999


def test_percentiles_are_those_of_the_standard_library() -> None:
    values = random.Random(1).sample(range(1_000_000), 9_999)
    latency = latency_of(values)
    assert latency
    cuts = statistics.quantiles(values, n=1000, method="inclusive")
    for mine, cut in ((latency.p50, 500), (latency.p90, 900), (latency.p99_9, 999)):
        assert mine == pytest.approx(cuts[cut - 1], rel=1e-3)
    assert latency.max == max(values)


def test_without_values_there_are_no_percentiles() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)
    assert latency_of([]) is None
    assert median_latency([None, None]) is None
    assert median_ratio([]) is None
    assert median_ratio([(1.0, 0.0)]) is None


def test_rounds_are_joined_percentile_by_percentile() -> None:
    joined = median_latency([latency_of([1, 9]), None, latency_of([2, 3]), latency_of([7, 8])])
    assert joined
    assert (joined.p50, joined.max) == (2, 8)


def test_ratios_are_taken_before_their_median() -> None:
    assert median_ratio([(2, 1), (9, 3), (1, 4)]) == 2


def test_senders_offer_evenly_and_in_turn() -> None:
    began = 1000.0
    plan = timetables(200.0, 4)
    due = sorted(one.due(number, began) for one in plan for number in range(50))
    assert due == pytest.approx([began + n / 200 for n in range(200)])
    assert [one.due(0, began) for one in plan] == sorted(one.due(0, began) for one in plan)


def test_an_overdue_instance_is_sent_at_once() -> None:
    before = time.monotonic()
    sleep_until(before - 10)
    sleep_until(before + 0.02)
    assert 0.02 <= time.monotonic() - before < 5
