"""What the trials say together: medians, ratios within one round, and on which machine."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from benchmarks.receivers import Receiver
from benchmarks.trial import Scenario, Trial


class Machine(msgspec.Struct, frozen=True):
    cpu: str
    cores: int
    memory_bytes: int
    kernel: str
    python: str
    load: float
    """Average of the last minute, when the benchmark began."""
    commit: str
    """Of the working tree, `+` after it where files differ."""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """Medians over the rounds of one receiver in one scenario."""

    receiver: str
    scenario: str
    instances_per_second: float
    megabytes_per_second: float
    """Of data sets, 10^6 bytes."""
    cpu_seconds_per_gigabyte: float
    """10^9 bytes."""
    cpu_microseconds_per_instance: float
    peak_resident_megabytes: float
    ratio: float | None
    """Median of its speed over the baseline's in the same round."""
    errors: list[str]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    machine: Machine
    versions: dict[str, str]
    baseline: str
    rounds: int
    summaries: list[Summary]
    trials: list[Trial]

    @property
    def failed(self) -> bool:
        return any(summary.errors for summary in self.summaries)


def this_machine() -> Machine:
    cpu = _field(Path("/proc/cpuinfo"), "model name") or platform.processor()
    memory = (_field(Path("/proc/meminfo"), "MemTotal") or "0 kB").split()[0]
    return Machine(
        cpu=cpu,
        cores=os.cpu_count() or 1,
        memory_bytes=int(memory) * 1024,
        kernel=platform.release(),
        python=platform.python_version(),
        load=os.getloadavg()[0],
        commit=_commit(),
    )


def _field(path: Path, name: str) -> str | None:
    for line in path.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


def _commit() -> str:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def report_of(
    machine: Machine,
    receivers: Iterable[Receiver],
    scenarios: Iterable[Scenario],
    rounds: Sequence[Sequence[Trial]],
    baseline: str,
) -> Report:
    """`rounds` holds every receiver once for each scenario."""
    receivers = list(receivers)
    trials = [trial for one in rounds for trial in one]
    summaries = [
        _summary(receiver.name, scenario.name, rounds, baseline)
        for scenario in scenarios
        for receiver in receivers
    ]
    return Report(
        machine=machine,
        versions={receiver.name: receiver.version for receiver in receivers},
        baseline=baseline,
        rounds=len(rounds),
        summaries=summaries,
        trials=trials,
    )


def _summary(
    receiver: str, scenario: str, rounds: Sequence[Sequence[Trial]], baseline: str
) -> Summary:
    mine, ratios = [], []
    for trials in rounds:
        turn = {trial.receiver: trial for trial in trials if trial.scenario == scenario}
        mine.append(turn[receiver])
        beside = turn[baseline].instances_per_second if baseline in turn else 0.0
        if beside:
            ratios.append(turn[receiver].instances_per_second / beside)
    good = [trial for trial in mine if trial.instances]
    rate = _median(trial.instances_per_second for trial in mine)
    size = mine[0].data_set_bytes
    cpu = _median(trial.cpu_seconds / trial.instances for trial in good)
    return Summary(
        receiver=receiver,
        scenario=scenario,
        instances_per_second=rate,
        megabytes_per_second=rate * size / 1e6,
        cpu_seconds_per_gigabyte=cpu / size * 1e9,
        cpu_microseconds_per_instance=cpu * 1e6,
        peak_resident_megabytes=_median(trial.peak_resident_bytes / 1e6 for trial in good),
        ratio=statistics.median(ratios) if ratios else None,
        errors=[error for trial in mine for error in trial.errors],
    )


def _median(values: Iterable[float]) -> float:
    listed = list(values)
    return statistics.median(listed) if listed else 0.0


def table(report: Report) -> str:
    machine = report.machine
    lines = [
        f"{machine.cpu}, {machine.cores} cores, {machine.memory_bytes / 1e9:.0f} GB, "
        f"Linux {machine.kernel}, Python {machine.python}; load {machine.load:.1f} at the start",
        "; ".join(f"{name}: {said}" for name, said in report.versions.items()),
        f"commit {machine.commit}; medians of {report.rounds} rounds, receivers in turn",
    ]
    columns = ("instances/s", "MB/s", "CPU s/GB", "CPU µs/inst", "peak MB", report.baseline)
    scenario = None
    for one in report.summaries:
        if one.scenario != scenario:
            scenario = one.scenario
            lines += ["", f"{scenario:20}" + "".join(f"{column:>13}" for column in columns)]
        if one.errors:
            lines.append(f"  {one.receiver:18}  FAILED: {one.errors[0]}")
            continue
        figures = (
            f"{one.instances_per_second:.0f}",
            f"{one.megabytes_per_second:.0f}",
            f"{one.cpu_seconds_per_gigabyte:.2f}",
            f"{one.cpu_microseconds_per_instance:.0f}",
            f"{one.peak_resident_megabytes:.0f}",
            f"x {one.ratio:.2f}" if one.ratio is not None else "-",
        )
        lines.append(f"  {one.receiver:18}" + "".join(f"{figure:>13}" for figure in figures))
    return "\n".join(lines)
