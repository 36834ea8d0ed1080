"""Find the receivers, run the rows that are asked for, and write the report."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

try:
    from rich.console import Console

    from benchmarks.pictures import draw_report
    from benchmarks.tables import grids, heading_lines, markdown, missing_lines, rich_table
except ModuleNotFoundError as error:
    sys.exit(f"{error}; what the benchmarks need: pip install -e '.[bench]'")

from benchmarks import micro
from benchmarks.cli import Asked, ask, root_folder
from benchmarks.machine import this_machine
from benchmarks.receivers import Missing, Receiver, find_receivers, oxidicom
from benchmarks.report import Report, report_of
from benchmarks.run import run_rounds

WIDTH = 120
"""Characters of a line where the output is no terminal."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0, or 1 where a receiver failed or lost what it had acknowledged."""
    asked = ask(arguments)
    if asked.command == "micro":
        return micro.main(asked.out)
    asked.out.mkdir(parents=True, exist_ok=True)
    root = root_folder(asked.root)
    try:
        machine = this_machine(root.parent)
        receivers, missing = variants(asked) if asked.command == "sweep" else found(asked)
        rounds = run_rounds(receivers, asked.matrix, asked.effort, root)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    report = report_of(machine, receivers, missing, asked.matrix, rounds)
    print_tables(report)
    write(report, asked.out)
    return 1 if report.failed else 0


def found(asked: Asked) -> tuple[list[Receiver], list[Missing]]:
    receivers, missing = find_receivers(asked.settings, asked.out)
    names = [name for name in asked.only.split(",") if name]
    unknown = set(names) - {receiver.name for receiver in receivers}
    if unknown:
        there = ", ".join(receiver.name for receiver in receivers)
        sys.exit(f"not on this machine: {', '.join(sorted(unknown))}; there is {there}")
    if names:
        return [receiver for receiver in receivers if receiver.name in names], []
    return receivers, missing


def variants(asked: Asked) -> tuple[list[Receiver], list[Missing]]:
    """Return oxidicom once for each combination of values, named after the settings."""
    several = []
    for values in asked.variants:
        name = " ".join(f"{key.removeprefix('OXIDICOM_')}={v}" for key, v in values.items())
        receiver = oxidicom(asked.settings | values, name)
        if not receiver:
            sys.exit("oxidicom is not installed here: pip install -e .")
        several.append(receiver)
    return several, []


def print_tables(report: Report) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    for line in (*heading_lines(report), *missing_lines(report)):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    for grid in grids(report):
        console.print()
        console.print(rich_table(grid))
        for note in grid.notes:
            console.print(f"  {note}", highlight=False, markup=False, soft_wrap=True)


def write(report: Report, out: Path) -> None:

    (out / "report.json").write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    text = ["\n".join(f"- {line}" for line in heading_lines(report)), ""]
    text += map(markdown, grids(report))
    (out / "report.md").write_text("\n".join(text))
    draw_report(report, out)
    print(f"\n{out}/report.json, report.md, and a picture for each table")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("stopped; nothing was written")
