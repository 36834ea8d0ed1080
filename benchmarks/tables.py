"""The tables: which figures each has, and how it is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.table import Table as RichTable

from benchmarks.report import Report, Summary

Value = Callable[[Summary], float | None]


class Column(NamedTuple):
    title: str
    """Title of a column. `{baseline}` in it is replaced by the baseline's name; two lines keep it
    narrow."""
    value: Value


def _latency(name: str) -> Value:
    """Return the value of a latency in milliseconds."""
    return lambda one: getattr(one.latency, name) * 1e3 if one.latency else None


RATE = Column("instances\n/s", lambda one: one.instances_per_second)
ASSOCIATION_RATE = Column("associations\n/s", lambda one: one.instances_per_second)
OFFERED = Column("offered\n/s", lambda one: one.offered_per_second)
MEGABYTES = Column("MB/s", lambda one: one.megabytes_per_second)
CPU_GIGABYTE = Column("CPU\ns/GB", lambda one: one.cpu_seconds_per_gigabyte)
CPU_INSTANCE = Column("CPU µs\n/instance", lambda one: one.cpu_microseconds_per_instance)
CPU_ASSOCIATION = Column("CPU µs\n/association", lambda one: one.cpu_microseconds_per_instance)
PEAK = Column("peak\nMB", lambda one: one.peak_resident_megabytes)
PDU = Column("PDU\nKiB", lambda one: one.fragment_bytes / 1024)
RATIO = Column("speed\n÷ {baseline}", lambda one: one.ratio)
LATENCY_RATIO = Column("p50\n÷ {baseline}", lambda one: one.latency_ratio)
ALONE = Column("speed\n÷ alone", lambda one: one.alone_ratio)
P50, P90 = Column("p50\nms", _latency("p50")), Column("p90\nms", _latency("p90"))
P99, P99_9 = Column("p99\nms", _latency("p99")), Column("p99.9\nms", _latency("p99_9"))
MAX = Column("max\nms", _latency("max"))


class Table(NamedTuple):
    key: str
    title: str
    rows: tuple[str, ...]
    columns: tuple[Column, ...]
    panels: tuple[Column, ...]
    """Columns that are drawn as bars; none where the latencies are drawn instead."""


TABLES = (
    Table(
        *("throughput", "Instances one after the other, by senders and size"),
        rows=("1x512k", "1x20k", "1x1k", "8x512k", "8x20k"),
        columns=(RATE, MEGABYTES, CPU_GIGABYTE, CPU_INSTANCE, P50, P99, PEAK, RATIO),
        panels=(RATE, CPU_INSTANCE),
    ),
    Table(
        *("encoding", "Length of PDUs and transfer syntax (else 128 KiB and Explicit VR)"),
        rows=("1x512k", "pdu-16k", "pdu-unlimited", "implicit-512k", "1x20k", "implicit-20k"),
        columns=(PDU, RATE, MEGABYTES, CPU_GIGABYTE, P50, P99, PEAK, RATIO),
        panels=(MEGABYTES, CPU_GIGABYTE),
    ),
    Table(
        *("large", "One large instance"),
        rows=("one-large",),
        columns=(MEGABYTES, CPU_GIGABYTE, PEAK, RATIO),
        panels=(MEGABYTES, PEAK),
    ),
    Table(
        *("associations", "An association for every instance"),
        rows=("associations",),
        columns=(ASSOCIATION_RATE, CPU_ASSOCIATION, P50, P99, PEAK, RATIO),
        panels=(ASSOCIATION_RATE, CPU_ASSOCIATION),
    ),
    Table(
        *("nagle", "A sender with Nagle's algorithm on, command and data set apart"),
        rows=("nagle-4k",),
        columns=(P50, P90, P99, P99_9, MAX, RATE, CPU_INSTANCE, LATENCY_RATIO),
        panels=(P50, RATE),
    ),
    Table(
        *("idle", "Beside associations that are open and idle"),
        rows=("1x20k", "idle-200"),
        columns=(RATE, CPU_INSTANCE, P50, P99, PEAK, RATIO, ALONE),
        panels=(RATE, PEAK),
    ),
    Table(
        *("latency", "Open loop: latency from when an instance was due"),
        rows=("4x20k", "open-25", "open-50", "open-75"),
        columns=(OFFERED, RATE, P50, P90, P99, P99_9, MAX, CPU_INSTANCE),
        panels=(),
    ),
)


class Grid(NamedTuple):
    """The text of a table."""

    key: str
    title: str
    columns: list[str]
    groups: list[tuple[str, list[list[str]]]]
    """Groups of lines, each with a heading; a line begins with a name."""
    notes: list[str]


def number(value: float | None) -> str:
    """Format a value with three significant digits."""
    if value is None:
        return "-"
    for least, digits in ((99.95, 0), (9.995, 1), (0.9995, 2)):
        if value >= least:
            return f"{value:,.{digits}f}"
    return f"{value:.3f}"


def grids(report: Report) -> Iterator[Grid]:
    """Yield every table of which a row was run."""
    for table in TABLES:
        rows = [key for key in table.rows if key in report.titles]
        # A row that another table has is no reason for this table.
        if not any(key in report.titles for key in own_rows(table)):
            continue
        columns = [column.title.format(baseline=report.baseline) for column in table.columns]
        groups = [(report.titles[key], list(_lines(table, report, key))) for key in rows]
        notes = [
            f"{one.receiver}, {report.titles[key]}: {failure_of(one)}"
            for key in rows
            for one in report.of_row(key)
            if failure_of(one)
        ]
        yield Grid(table.key, table.title, columns, groups, notes)


def own_rows(table: Table) -> tuple[str, ...]:
    """Return the rows that no earlier table has."""
    before = TABLES[: TABLES.index(table)]
    return tuple(key for key in table.rows if all(key not in other.rows for other in before))


def _lines(table: Table, report: Report, key: str) -> Iterator[list[str]]:
    for one in report.of_row(key):
        said = failure_of(one)
        if said:
            yield [one.receiver, said.partition(":")[0], *[""] * (len(table.columns) - 1)]
        else:
            yield [one.receiver, *(number(column.value(one)) for column in table.columns)]


def failure_of(one: Summary) -> str:
    """Return why no figures are claimed."""
    if one.errors:
        return f"FAILED: {one.errors[0]}"
    return f"not run: {one.skipped}" if one.skipped else ""


def rich_table(grid: Grid) -> RichTable:
    table = RichTable(
        title=grid.title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1)
    )
    table.add_column("", min_width=12)
    for column in grid.columns:
        table.add_column(column, justify="right", no_wrap=True)
    for position, (heading, lines) in enumerate(grid.groups):
        if position:
            table.add_row()
        table.add_row(heading, style="bold")
        for name, *cells in lines:
            table.add_row(f"  {name}", *cells)
    return table


def markdown(grid: Grid) -> str:
    lines = [f"### {grid.title}", ""]
    lines.append(_line(["", *(joined(column) for column in grid.columns)]))
    lines.append(_line(["---", *("---:" for _ in grid.columns)]))
    for heading, rows in grid.groups:
        lines.append(_line([f"**{heading}**", *("" for _ in grid.columns)]))
        lines += map(_line, rows)
    lines += ["", *(f"- {note}" for note in grid.notes)] if grid.notes else []
    return "\n".join(lines) + "\n"


def joined(title: str) -> str:
    """Return a column's title in one line."""
    return title.replace("\n/", "/").replace("\n", " ")


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def missing_lines(report: Report) -> list[str]:
    """Return a line for each receiver that is missing, with what to install for it."""
    return [f"{name}: not found ({hint})" for name, hint in report.missing.items()]


def heading_lines(report: Report) -> list[str]:
    """Return the lines above every table and picture: the machine, and the receivers."""
    lines = [str(report.machine)]
    for name, version in report.versions.items():
        note = report.notes.get(name)
        lines.append(f"{name}: {version}" + (f" ({note})" if note else ""))
    rounds = f"medians of {report.rounds} rounds" if report.rounds > 1 else "one round"
    lines.append(f"{rounds}, receivers in turn; ratios to {report.baseline} within a round")
    return lines
