"""The output of `oxidicom status`: tables, which have colours on a terminal only."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Final, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from oxidicom.admin.model import ReceiverStatus, RecentSeries, Series
from oxidicom.cli.console import is_terminal, printable

_MAX_ROWS: Final = 20
"""Greatest number of rows in one table; the page of the admin endpoint shows more."""

_PLAIN_WIDTH: Final = 160
"""Characters in a line if stdout is not a terminal."""
_COLOURS: Final = {"ok": "green", "degraded": "yellow", "failed": "red"}


def show(status: ReceiverStatus) -> None:
    """Print the status on stdout."""
    if is_terminal(sys.stdout):
        console = Console()
    else:
        console = Console(width=_PLAIN_WIDTH, color_system=None, force_terminal=False)
    console.print(view(status))


class StatusScreen:
    """The status on a terminal. Each update replaces the one before it."""

    def __init__(self) -> None:
        self._live = Live(auto_refresh=False, screen=False)
        self._latest: ReceiverStatus | None = None

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def update(self, status: ReceiverStatus) -> None:
        """Show `status` in place of what is shown."""
        self._latest = status
        self._live.update(view(status), refresh=True)

    def show_error(self, text: str) -> None:
        """Show an error above the last status, if there is one."""
        parts: list[RenderableType] = [Text(text, style="red")]
        if self._latest is not None:
            parts.append(view(self._latest))
        self._live.update(Group(*parts), refresh=True)


def view(status: ReceiverStatus) -> Group:
    """Return the headline and every table that is not empty."""
    parts: list[RenderableType] = [_headline(status), _checks(status), _figures(status)]
    if status.associations:
        parts += [Text(), _associations(status)]
    if status.series:
        parts += [Text(), _series(status)]
    if status.recent_series:
        parts += [Text(), _recent(status)]
    if status.failures:
        parts += [Text(), _failures(status)]
    return Group(*parts)


def _headline(status: ReceiverStatus) -> Text:
    ready = Text("ready", style="green") if status.ready else Text("not ready", style="red")
    since = _duration(status.now - status.started_at)
    workers = f", {status.workers} workers" if status.workers > 1 else ""
    return Text.assemble(
        f"{status.aet}: ", ready, f", oxidicom {status.version}{workers}, up {since}"
    )


def _checks(status: ReceiverStatus) -> Table:
    table = _table("CHECK", "STATE", "")
    for check in status.checks:
        state = Text(check.state, style=_COLOURS[check.state])
        table.add_row(check.name, state, printable(check.detail))
    return table


def _figures(status: ReceiverStatus) -> Table:
    totals, rates, outbox = status.totals, status.now_rates, status.outbox
    oldest = ""
    if outbox.oldest_at is not None:
        oldest = f", the oldest since {_duration(status.now - outbox.oldest_at)}"
    table = _table("", "")
    for name, text in (
        ("now", f"{rates.instances:.0f} instances/s, {rates.bytes / 1e6:.1f} MB/s"),
        (
            "instances",
            f"{totals.instances} stored ({_size(totals.bytes)}), {totals.refused} refused",
        ),
        (
            "associations",
            f"{status.associations_open} open, {totals.associations} in all,"
            f" {totals.associations_aborted} not released",
        ),
        (
            "series",
            f"{status.series_open} in reception, {totals.series_registered} registered,"
            f" {totals.series_refused} refused",
        ),
        ("outbox", f"{outbox.pending} pending, {outbox.refused} refused{oldest}"),
    ):
        table.add_row(name, text)
    return table


def _associations(status: ReceiverStatus) -> Table:
    table = _table("ASSOCIATION", "PEER", "OPEN", "STORED", "REFUSED", "SIZE", "TLS")
    for each in status.associations[:_MAX_ROWS]:
        table.add_row(
            f"{printable(each.calling_aet)} → {printable(each.called_aet)}",
            each.peer,
            _duration(status.now - each.since),
            str(each.stored),
            str(each.refused),
            _size(each.bytes),
            each.tls or "",
        )
    return _with_count_of_hidden(table, status.associations_open)


def _series(status: ReceiverStatus) -> Table:
    table = _table("SERIES IN RECEPTION", "OF", "", "RECEIVED", "STATE", "SINCE")
    for each in status.series[:_MAX_ROWS]:
        table.add_row(*_series_cells(each), each.state, _duration(status.now - each.since))
    return _with_count_of_hidden(table, status.series_open)


def _recent(status: ReceiverStatus) -> Table:
    table = _table("COMPLETE SERIES", "OF", "", "RECEIVED", "STATE", "AGO")
    for each in status.recent_series[:_MAX_ROWS]:
        table.add_row(*_series_cells(each), each.state, _duration(status.now - each.ended))
    return table


def _series_cells(series: Series | RecentSeries) -> tuple[str, str, str, str]:
    expected = "" if series.expected is None else f"/{series.expected}"
    return (
        printable(series.series_instance_uid),
        printable(series.pacs_name),
        printable(series.modality or ""),
        f"{series.received}{expected}",
    )


def _failures(status: ReceiverStatus) -> Table:
    table = _table("FAILURE", "AGO", "SOURCE", "", "REASON")
    for each in status.failures[:_MAX_ROWS]:
        table.add_row(
            each.kind,
            _duration(status.now - each.at),
            printable(each.who),
            f"×{each.count}" if each.count > 1 else "",
            printable(f"{each.status} {each.reason}" if each.status else each.reason),
        )
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, show_header=any(columns), header_style="bold", pad_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


def _with_count_of_hidden(table: Table, count: int) -> Table:
    if count > table.row_count:
        table.caption = f"and {count - table.row_count} more"
    return table


def _duration(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _size(size: float) -> str:
    for unit, length in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= length:
            return f"{size / length:.1f} {unit}"
    return f"{size / 1e3:.1f} kB"
