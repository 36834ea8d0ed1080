"""Run receivers in turn, round after round."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.receivers import Receiver
from benchmarks.rows import Effort, Row
from benchmarks.trial import Trial, run_trial


def run_rounds(
    receivers: Sequence[Receiver], rows: Sequence[Row], effort: Effort, root: Path
) -> list[list[Trial]]:
    """Run every receiver once for each row, in each round. Progress goes to standard error."""
    began = time.monotonic()
    rounds: list[list[Trial]] = []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(receivers) * len(rows))
        took = 0.0
        while len(rounds) < effort.rounds:
            started = time.monotonic()
            if rounds and started + took - began > effort.budget:
                break
            progress.reset(task, description=f"round {len(rounds) + 1} of {effort.rounds}")
            trials: list[Trial] = []
            for receiver, row in turns(receivers, rows):
                text = f"round {len(rounds) + 1} of {effort.rounds}: {row.title}: {receiver.name}"
                progress.update(task, description=f"{text:72}")
                closed_loop = speed_of(trials, receiver.name, row.share_of)
                trials.append(run_trial(receiver, row, effort, root, closed_loop))
                progress.advance(task)
            rounds.append(trials)
            took = time.monotonic() - started
    return rounds


def turns(receivers: Sequence[Receiver], rows: Sequence[Row]) -> Iterator[tuple[Receiver, Row]]:
    """Yield all receivers of one row before the next row, so that the state of the machine is as
    equal as possible for them."""
    for row in rows:
        for receiver in receivers:
            yield receiver, row


def speed_of(trials: Sequence[Trial], receiver: str, row: str) -> float:
    """Return instances per second of this round, or 0 where there are none."""
    for trial in trials:
        if (trial.receiver, trial.row) == (receiver, row) and not trial.errors:
            return trial.instances_per_second
    return 0.0
