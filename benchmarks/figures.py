"""Percentiles, medians and ratios of measured times."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

import msgspec


class Latency(msgspec.Struct, frozen=True):
    """Percentiles of one trial, or their medians over the rounds, in seconds."""

    p50: float
    p90: float
    p99: float
    p99_9: float
    max: float


PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99_9": 99.9, "max": 100.0}


def percentile(ascending: Sequence[float], percent: float) -> float:
    """Return the least value that is not below `percent` of all (nearest rank). Raises ValueError
    where there is no value."""
    if not ascending:
        raise ValueError("no values")
    rank = math.ceil(round(percent / 100 * len(ascending), 9))
    return ascending[max(rank, 1) - 1]


def latency_of(values: Iterable[float]) -> Latency | None:
    ascending = sorted(values)
    if not ascending:
        return None
    return Latency(**{name: percentile(ascending, p) for name, p in PERCENTILES.items()})


def median_latency(several: Iterable[Latency | None]) -> Latency | None:
    known = [one for one in several if one]
    if not known:
        return None
    return Latency(
        **{name: statistics.median(getattr(one, name) for one in known) for name in PERCENTILES}
    )


def median(values: Iterable[float]) -> float:
    """Return the median, or 0 where there is no value."""
    listed = list(values)
    return statistics.median(listed) if listed else 0.0


def median_ratio(pairs: Iterable[tuple[float, float]]) -> float | None:
    """Return the median of each round's value divided by its baseline's. Rounds without a baseline
    do not count."""
    ratios = [mine / baseline for mine, baseline in pairs if baseline]
    return statistics.median(ratios) if ratios else None
