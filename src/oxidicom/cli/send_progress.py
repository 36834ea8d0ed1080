"""The progress bar of `oxidicom send`."""

from __future__ import annotations

import threading
import time
from collections import deque
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from oxidicom.scu.files import candidates
from oxidicom.scu.sending import SendTally

_RATE_WINDOW_S: Final = 5.0
"""Length in seconds of the time window over which a rate is measured."""


class Drawing:
    """A progress bar on stderr, shown inside its context.

    A separate thread counts the files below `paths` for the total. Without `paths` the total
    remains unknown.
    """

    def __init__(self, paths: list[str]) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[count]}"),
            TextColumn("[cyan]{task.fields[rate]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("[red]{task.fields[failed]}"),
            console=Console(stderr=True),
            expand=True,
        )
        self._task = self._progress.add_task("", total=None, count="", rate="", failed="")
        self._paths = paths
        self._total = 0
        self._counted = False
        self._ended = False
        self._samples: deque[tuple[float, int, int]] = deque()

    def __enter__(self) -> Self:
        if self._paths:
            threading.Thread(target=self._count, name="count files", daemon=True).start()
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended = True
        self._progress.stop()

    def print_line(self, line: str) -> None:
        """Print one line above the bar, prefixed by the program's name."""
        self._progress.console.print(f"oxidicom: {line}", markup=False, highlight=False)

    def update(self, tally: SendTally) -> None:
        """Update the bar with the results in `tally`."""
        finished = tally.stored + tally.failed + tally.skipped
        known = max(self._total, tally.examined)
        instances, size = self._rates(tally)
        self._progress.update(
            self._task,
            completed=finished,
            total=known if self._counted else None,
            count=f"{tally.stored}/{known - tally.skipped}{'' if self._counted else '+'}",
            rate=f"{instances:.0f} instances/s {size / 1e6:.1f} MB/s",
            failed=f"{tally.failed} failed" if tally.failed else "",
        )

    def _rates(self, tally: SendTally) -> tuple[float, float]:
        now = time.monotonic()
        samples = self._samples
        samples.append((now, tally.stored, tally.bytes))
        while len(samples) > 2 and now - samples[0][0] > _RATE_WINDOW_S:
            samples.popleft()
        then, stored, size = samples[0]
        seconds = now - then
        if seconds <= 0:
            return 0.0, 0.0
        return (tally.stored - stored) / seconds, (tally.bytes - size) / seconds

    def _count(self) -> None:
        for _ in candidates(self._paths):
            self._total += 1
            if self._ended:
                return
        self._counted = True
