"""The table of what was pushed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from samples.push import Pushed

MEGABYTE = 1e6


def table_of(pushes: Sequence[Pushed]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    table.add_column("", no_wrap=True)
    table.add_column("modality", no_wrap=True)
    for title in ("instances", "MB", "seconds", "MB/s", "on disk"):
        table.add_column(title, justify="right", no_wrap=True)
    for position, (way, group) in enumerate(groupby(pushes, lambda one: one.way)):
        ours = list(group)
        if position:
            table.add_row()
        table.add_row(f"{way.name} from {way.calling_ae_title}", style="bold")
        for one in ours:
            name, modality = f"  {escape(one.series.description)}", one.series.modality
            cells = _cells([one])
            table.add_row(name, modality, *cells, style=None if one.complete else "bold red")
        table.add_row(f"  {len(ours)} series", "", *_cells(ours), style="italic")
    return table


def _cells(pushes: Iterable[Pushed]) -> list[str]:
    """Return the cells of a line, summed where there are several pushes."""
    pushes = list(pushes)
    instances = sum(len(one.series.instances) for one in pushes)
    megabytes = sum(one.series.length for one in pushes) / MEGABYTE
    seconds = sum(one.seconds for one in pushes)
    rate = number(megabytes / seconds) if all(one.complete for one in pushes) else "-"
    found = _found(pushes, instances)
    return [f"{instances}", number(megabytes), f"{seconds:.2f}", rate, found]


def number(value: float) -> str:
    """Format a number with three significant digits: a report has kilobytes, a slide hundreds of
    MB."""
    for least, digits in ((99.95, 0), (9.995, 1), (0.9995, 2)):
        if value >= least:
            return f"{value:.{digits}f}"
    return f"{value:.3f}"


def _found(pushes: Sequence[Pushed], instances: int) -> str:
    found = 0
    for one in pushes:
        if one.found is None:
            return "not visible"
        found += one.found
    return f"{found}" if found == instances else f"{found}, {instances - found} missing"


def failures(pushes: Iterable[Pushed]) -> list[str]:
    """Return a line for each series of which something did not arrive."""
    lines = []
    for one in pushes:
        if one.complete:
            continue
        what = f"{one.series.description} by {one.way.name}"
        count = len(one.series.instances)
        if one.reason:
            lines.append(f"{what}: {one.reason}")
        elif one.failed:
            lines.append(f"{what}: {one.failed} of {count} not acknowledged")
        else:
            lines.append(f"{what}: acknowledged, but {count - (one.found or 0)} of {count} missing")
    return lines
