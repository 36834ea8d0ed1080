"""The screen of `oxidicom watch` on a terminal."""

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

_OTHER_LINES: Final = 4
"""Number of lines of the terminal that are not used for series."""

_UID_TAIL_LENGTH: Final = 24
"""Number of characters of a UID that are shown: its last ones, because series of one device differ
only there."""


class WatchScreen:
    """A table of series on the terminal; `draw` replaces it with the current one."""

    def __init__(self, rows: int, console: Console | None = None) -> None:
        self._console = console or Console()
        self._model = WatchModel(max(1, min(rows, self._console.height - _OTHER_LINES)))
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

    def add(self, message: LonkMessage) -> None:
        """Apply one message; the next `draw` shows it."""
        self._model.add(message, time.monotonic())

    def set_state(self, state: str) -> None:
        """Set the state of the connection, which the next `draw` shows below the table."""
        self._state = state

    def draw(self) -> None:
        """Draw the current table."""
        self._live.update(self.table(time.monotonic()), refresh=True)

    def table(self, now: float) -> Table:
        """Return the current table; `now` is a time of the monotonic clock."""
        rows = self._model.rows(now)
        table = Table(
            box=None,
            expand=True,
            caption=f"{self._state}; {self._model.done} done, {self._model.errors} errors",
            caption_justify="left",
        )
        table.add_column("AE TITLE", no_wrap=True, max_width=16)
        table.add_column("SERIES", no_wrap=True, max_width=_UID_TAIL_LENGTH + 1)
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
    """Return a bar that pulsates until the series is done, because LONK sends no totals."""
    if row.done:
        return ProgressBar(total=1, completed=1, finished_style="green" if not row.error else "red")
    return ProgressBar(total=1, pulse=True, animation_time=now)


def _state(row: Row) -> Text:
    if row.error is not None:
        return Text(f"{'done, ' if row.done else ''}error: {printable(row.error)}", style="red")
    return Text("done", style="green") if row.done else Text("receiving")


def _tail(uid: str) -> str:
    return uid if len(uid) <= _UID_TAIL_LENGTH else f"…{uid[-_UID_TAIL_LENGTH:]}"
