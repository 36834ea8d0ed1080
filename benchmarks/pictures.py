"""A picture for each table: bars by row and receiver, or the spread of latencies."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from benchmarks.figures import PERCENTILES
from benchmarks.report import Report, Summary
from benchmarks.tables import (
    TABLES,
    Column,
    Table,
    failure_of,
    heading_lines,
    joined,
    number,
    own_rows,
)

# Okabe and Ito's colours, which the colour-blind tell apart too.
COLOURS = {
    "oxidicom": "#0072B2",
    "floor": "#999999",
    "dcmtk": "#E69F00",
    "dicom-rs": "#CC79A7",
    "orthanc": "#D55E00",
    "dcm4che": "#56B4E9",
    "pynetdicom": "#009E73",
}
OTHERS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999")

WIDTH = 11.0
LINE = 0.21
"""Inches of height of one receiver's line."""

CAPTION_LINE = 0.145
CAPTION_WIDTH = 165
"""Characters of 7 points each that fit into the picture's width."""

WIDE = 30.0
"""Greatest value divided by the median above which bars would hide the others: then the scale is
logarithmic, and points replace bars, whose length would mean nothing."""

MARKS = dict(zip(PERCENTILES, ("o", "s", "D", "^", "|"), strict=True))


RATIO_BY = ("instances", "associations", "MB/s")
"""Beginnings of the titles of speeds, beside which the ratio to the baseline is written."""


class Line(NamedTuple):
    name: str
    value: float | None
    """The figure, or None where no figure is claimed."""
    text: str
    spread: tuple[float, ...] = ()
    """Percentiles instead of a figure, in the order of PERCENTILES."""
    colour: str = ""
    """Colour of the line; empty for the receiver's own."""


class Panel(NamedTuple):
    title: str
    groups: list[tuple[str, list[Line]]]


def draw_report(report: Report, folder: Path) -> list[Path]:
    """Draw an SVG and a PNG for each table of which a row was run."""
    caption = heading_lines(report)
    made = []
    for table in TABLES:
        if any(key in report.titles for key in own_rows(table)):
            made += draw(table.key, table.title, list(_panels(table, report)), caption, folder)
    return made


def _panels(table: Table, report: Report) -> Iterator[Panel]:
    rows = [key for key in table.rows if key in report.titles]

    def panel(title: str, column: Column | None) -> Panel:
        return Panel(
            title,
            [
                (report.titles[key], [_line(one, column) for one in report.of_row(key)])
                for key in rows
            ],
        )

    for column in table.panels:
        yield panel(joined(column.title), column)
    if not table.panels:
        yield panel("latency, ms", None)


def _line(one: Summary, column: Column | None) -> Line:
    """Make the line of one receiver: of a column, or of its latencies without one."""
    said = failure_of(one)
    if said:
        return Line(one.receiver, None, said.partition(":")[0])
    if column:
        value = column.value(one)
        ratio = one.ratio if column.title.startswith(RATIO_BY) else None
        return Line(one.receiver, value, number(value) + (f"  × {number(ratio)}" if ratio else ""))
    if not one.latency:
        return Line(one.receiver, None, "-")
    spread = tuple(getattr(one.latency, name) * 1e3 for name in PERCENTILES)
    rate = one.offered_per_second or one.instances_per_second
    return Line(one.receiver, spread[-1], f"max {number(spread[-1])} at {number(rate)}/s", spread)


def draw(
    key: str, title: str, panels: Sequence[Panel], caption: Sequence[str], folder: Path
) -> list[Path]:
    """Draw `folder`/`key`.svg and .png, and return their paths."""
    names = list(dict.fromkeys(line.name for _, lines in panels[0].groups for line in lines))
    wrapped = [part for text in caption for part in textwrap.wrap(text, CAPTION_WIDTH)]
    body = LINE * sum(len(lines) + 1.4 for _, lines in panels[0].groups)
    below = CAPTION_LINE * len(wrapped) + 0.55
    height = 0.75 + body + below
    figure = Figure(figsize=(WIDTH, height), facecolor="white")
    FigureCanvasAgg(figure)
    figure.text(0.015, 1 - 0.12 / height, title, va="top", size=12, weight="bold")
    figure.text(
        *(0.015, 0.06 / height, "\n".join(wrapped)),
        va="bottom",
        size=7,
        color="#444444",
        linespacing=1.35,
    )
    left = 0.02 + 0.0075 * max(max(map(len, names)), 10)
    width = (0.985 - left - 0.03 * (len(panels) - 1)) / len(panels)
    for number_of, panel in enumerate(panels):
        where = (left + number_of * (width + 0.03), below / height, width, body / height)
        axes = figure.add_axes(where)
        _draw_panel(axes, panel, names, first=number_of == 0)
    made = [folder / f"{key}.svg", folder / f"{key}.png"]
    for path in made:
        figure.savefig(path, dpi=130)
    return made


def _draw_panel(axes: Axes, panel: Panel, names: list[str], first: bool) -> None:
    shown = [line for _, lines in panel.groups for line in lines if line.value]
    values = sorted(line.value for line in shown if line.value)
    spread = any(line.spread for line in shown)
    wide = bool(values) and values[-1] > WIDE * values[len(values) // 2]
    if spread or wide:
        least = min((min(line.spread or (line.value or 0,)) for line in shown), default=0.1)
        axes.set_xscale("log")
        axes.set_xlim(least / 1.6, (values[-1] if values else 1) * (14 if spread else 5))
    else:
        axes.set_xlim(0, (values[-1] if values else 1) * 1.3)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    height, ticks, labels = 0.0, [], []
    for heading, lines in panel.groups:
        if first:
            axes.text(
                *(0.0, height - 0.05, heading),
                transform=axes.get_yaxis_transform(),
                size=8.5,
                weight="bold",
                va="center",
                ha="left",
            )
        for line in lines:
            height += 1
            ticks.append(height)
            labels.append(line.name)
            colour = line.colour or _colour(line.name, names)
            _draw_line(axes, height, line, colour, spread or wide)
        height += 1.4
    axes.set_ylim(height - 0.7, -0.6)
    axes.set_yticks(ticks, labels if first else [""] * len(ticks), size=8)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=7, colors="#666666")
    axes.set_title(panel.title + (" (log scale)" if spread or wide else ""), size=9, loc="left")
    axes.grid(axis="x", color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    if spread:
        _draw_legend(axes)


def _draw_line(axes: Axes, height: float, line: Line, colour: str, points: bool) -> None:
    if line.value is None:
        axes.text(
            *(0.004, height, line.text),
            transform=axes.get_yaxis_transform(),
            size=7.5,
            va="center",
            style="italic",
            color="#888888",
        )
        return
    if line.spread:
        axes.plot([line.spread[0], line.spread[-1]], [height] * 2, color=colour, linewidth=1.5)
        for value, mark in zip(line.spread, MARKS.values(), strict=True):
            axes.plot([value], [height], mark, color=colour, markersize=5)
    elif points:
        axes.plot([line.value], [height], "o", color=colour, markersize=6)
    else:
        axes.barh(height, line.value, 0.78, color=colour)
    axes.annotate(
        line.text,
        (line.value, height),
        xytext=(6, 0),
        textcoords="offset points",
        size=7.5,
        va="center",
    )


def _draw_legend(axes: Axes) -> None:
    for name, mark in MARKS.items():
        axes.plot([], [], mark, color="#444444", markersize=5, label=name.replace("_", "."))
    axes.legend(
        loc="lower right", bbox_to_anchor=(1, 1), ncols=len(MARKS), fontsize=7.5, frameon=False
    )


def _colour(name: str, names: list[str]) -> str:
    return COLOURS.get(name) or OTHERS[names.index(name) % len(OTHERS)]
