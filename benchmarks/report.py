"""The summary of all trials: medians, and ratios within one round."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from benchmarks.figures import Latency, median, median_latency, median_ratio
from benchmarks.machine import Machine
from benchmarks.receivers import Missing, Receiver
from benchmarks.rows import Row
from benchmarks.trial import Trial

BASELINES = ("floor", "dcmtk")
"""Receivers that others are compared with: the first of these that takes part, or else the first
receiver."""

LEAST_CPU = 0.03
"""Least CPU seconds of a trial; a smaller figure would mostly show the resolution of the clock."""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """Medians over the rounds of one receiver in one row."""

    receiver: str
    row: str
    instances_per_second: float
    megabytes_per_second: float
    """Megabytes (10^6 bytes) of data sets a second."""
    cpu_seconds_per_gigabyte: float | None
    """CPU seconds for 10^9 bytes, or None where it was too little to be measured."""
    cpu_microseconds_per_instance: float | None
    peak_resident_megabytes: float
    fragment_bytes: int
    offered_per_second: float | None
    latency: Latency | None
    ratio: float | None
    """Speed divided by the baseline's in the same round."""
    latency_ratio: float | None
    """Median latency divided by the baseline's in the same round."""
    alone_ratio: float | None
    """Speed divided by its own in the row that this one is compared with."""
    errors: list[str]
    skipped: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    machine: Machine
    versions: dict[str, str]
    notes: dict[str, str]
    missing: dict[str, str]
    """Receivers that were not found, and what to install for each."""
    baseline: str
    rounds: int
    titles: dict[str, str]
    """Titles of rows by their keys."""
    summaries: list[Summary]
    trials: list[list[Trial]]
    """Trials of each round."""

    @property
    def failed(self) -> bool:
        return any(summary.errors for summary in self.summaries)

    def of_row(self, key: str) -> list[Summary]:
        return [summary for summary in self.summaries if summary.row == key]


def baseline_of(names: Sequence[str]) -> str:
    return next((name for name in BASELINES if name in names), names[0])


def report_of(
    machine: Machine,
    receivers: Sequence[Receiver],
    missing: Iterable[Missing],
    rows: Sequence[Row],
    rounds: Sequence[list[Trial]],
) -> Report:
    """Summarise rounds, each of which has every receiver once for each row."""
    baseline = baseline_of([receiver.name for receiver in receivers])
    return Report(
        machine=machine,
        versions={receiver.name: receiver.version for receiver in receivers},
        notes={receiver.name: receiver.note for receiver in receivers if receiver.note},
        missing={one.name: one.hint for one in missing},
        baseline=baseline,
        rounds=len(rounds),
        titles={row.key: row.title for row in rows},
        summaries=[
            _summary(receiver.name, row, rounds, baseline) for row in rows for receiver in receivers
        ],
        trials=list(rounds),
    )


def _summary(receiver: str, row: Row, rounds: Sequence[list[Trial]], baseline: str) -> Summary:
    mine = [_find(trials, receiver, row.key) for trials in rounds]
    turns = [trial for trial in mine if trial]
    good = [trial for trial in turns if trial.instances]

    def ratios(
        value: Callable[[Trial], float], other: str = baseline, key: str = row.key
    ) -> float | None:
        return median_ratio(_pairs(rounds, (receiver, row.key), (other, key), value))

    measured = [trial for trial in good if trial.cpu_seconds >= LEAST_CPU]
    cpu = median(trial.cpu_seconds / trial.instances for trial in measured) or None
    rate = median(trial.instances_per_second for trial in good)
    return Summary(
        receiver=receiver,
        row=row.key,
        instances_per_second=rate,
        megabytes_per_second=rate * row.size / 1e6,
        cpu_seconds_per_gigabyte=cpu / row.size * 1e9 if cpu else None,
        cpu_microseconds_per_instance=cpu * 1e6 if cpu else None,
        peak_resident_megabytes=median(trial.peak_resident_bytes / 1e6 for trial in good),
        fragment_bytes=max((trial.fragment_bytes for trial in good), default=0),
        offered_per_second=median(offered for t in good if (offered := t.offered_per_second))
        or None,
        latency=median_latency(trial.latency for trial in good),
        ratio=ratios(lambda trial: trial.instances_per_second),
        latency_ratio=ratios(lambda trial: trial.latency.p50 if trial.latency else 0.0),
        alone_ratio=ratios(lambda trial: trial.instances_per_second, receiver, row.against)
        if row.against
        else None,
        errors=[error for trial in turns for error in trial.errors],
        skipped=next((trial.skipped for trial in turns if trial.skipped), ""),
    )


def _find(trials: Iterable[Trial], receiver: str, row: str) -> Trial | None:
    return next((t for t in trials if (t.receiver, t.row) == (receiver, row)), None)


def _pairs(
    rounds: Iterable[list[Trial]],
    mine: tuple[str, str],
    other: tuple[str, str],
    value: Callable[[Trial], float],
) -> Iterator[tuple[float, float]]:
    """Yield the pairs of each round in which both receivers stored something."""
    for trials in rounds:
        one, beside = _find(trials, *mine), _find(trials, *other)
        if one and beside and one.instances and beside.instances:
            yield value(one), value(beside)
