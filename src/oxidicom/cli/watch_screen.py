"""The screen of `oxidicom watch`."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from oxidicom.cli.console import printable
from oxidicom.cli.watch_model import Row, WatchModel
from oxidicom.notify.lonk_messages import LonkMessage

_AROUND: Final = 4
"""Lines of the screen that are no series."""

_TAIL: Final = 24
"""Characters of a UID; what tells series apart is at its end."""


class WatchScreen:
    def __init__(self, rows: int, console: Console | None = None) -> None:
        self._console = console or Console()
        self._board = WatchModel(max(1, min(rows, self._console.height - _AROUND)))
        self._state = "connecting"
        self._live = Live(console=self._console, auto_refresh=False, transient=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.draw()
        self._live.stop()

    def heard(self, heard: LonkMessage) -> None:
        self._board.take(heard, time.monotonic())

    def say(self, state: str) -> None:
        self._state = state

    def draw(self) -> None:
        self._live.update(self.table(time.monotonic()), refresh=True)

    def table(self, now: float) -> Table:
        rows = self._board.rows(now)
        table = Table(
            box=None,
            expand=True,
            caption=f"{self._state}; {self._board.done} done, {self._board.errors} errors",
            caption_justify="left",
        )
        table.add_column("AE TITLE", no_wrap=True, max_width=16)
        table.add_column("SERIES", no_wrap=True, max_width=_TAIL + 1)
        table.add_column("", ratio=1)
        table.add_column("INSTANCES", justify="right", no_wrap=True)
        table.add_column("PER S", justify="right", no_wrap=True)
        table.add_column("STATE", ratio=1, no_wrap=True)
        for row in rows:
            table.add_row(
                Text(printable(row.aet)),
                Text(_tail(printable(row.uid))),
                _bar(row, now),
                str(row.count),
                f"{rate:.0f}" if (rate := row.rate(now)) else "",
                _state(row),
            )
        return table


def _bar(row: Row, now: float) -> ProgressBar:
    """LONK tells no totals: it moves while instances come, and is full when all have come."""
    if row.done:
        return ProgressBar(total=1, completed=1, finished_style="green" if not row.error else "red")
    return ProgressBar(total=1, pulse=True, animation_time=now)


def _state(row: Row) -> Text:
    if row.error is not None:
        return Text(f"{'done, ' if row.done else ''}error: {printable(row.error)}", style="red")
    return Text("done", style="green") if row.done else Text("receiving")


def _tail(uid: str) -> str:
    return uid if len(uid) <= _TAIL else f"…{uid[-_TAIL:]}"
