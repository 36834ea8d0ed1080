"""Arguments of `python -m benchmarks`."""

from __future__ import annotations

import argparse
import itertools
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.rows import FULL, QUICK, Effort, Row, chosen, rows

MEMORY = Path("/dev/shm")
ROOM = 3 << 30
"""Bytes that a file system in memory must have free to be the default storage."""


class Asked(argparse.Namespace):
    command: str
    quick: bool
    rounds: int | None
    only: str
    rows: str
    out: Path
    root: Path | None
    broker: str | None
    nats: str | None
    env: list[tuple[str, str]]
    values: list[tuple[str, list[str]]]
    matrix: list[Row]

    @property
    def effort(self) -> Effort:
        effort = QUICK if self.quick else FULL
        if self.rounds:  # given explicitly
            return effort._replace(rounds=self.rounds, budget=float("inf"))
        return effort

    @property
    def settings(self) -> dict[str, str]:
        """Settings of oxidicom from `--env`, `--broker` and `--nats`."""
        named = {"OXIDICOM_CELERY_BROKER": self.broker, "OXIDICOM_NATS_ADDRESS": self.nats}
        return {name: value for name, value in named.items() if value} | dict(self.env)

    @property
    def variants(self) -> list[dict[str, str]]:
        """Return every combination of the values of a sweep."""
        names = [name for name, _ in self.values]
        return [
            dict(zip(names, values, strict=True))
            for values in itertools.product(*(values for _, values in self.values))
        ]


def ask(arguments: Sequence[str] | None = None) -> Asked:
    """Parse the arguments, by default the process' own. Exits with status 2 on wrong ones."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    command = given.pop(0) if given and given[0] in _PARSERS else "run"
    asked = _PARSERS[command]().parse_args(given, Asked(command=command))
    if command != "micro":
        try:
            asked.matrix = _matrix(asked)
        except ValueError as error:
            _PARSERS[command]().error(str(error))
    return asked


def _matrix(asked: Asked) -> list[Row]:
    # Rows that are named are run in a quick run, too.
    return chosen(rows(asked.effort, asked.quick and not asked.rows), asked.rows)


def _run_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Receivers of this machine beside one another, on the same work in one run.",
        epilog="Also: `sweep NAME=VALUE,VALUE` for oxidicom with each value of a setting, and "
        "`micro` for its compiled parsers alone; with --help each.",
    )
    _add_run(parser)
    parser.add_argument("--only", default="", help="names of receivers, with commas between")
    return parser


def _sweep_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks sweep",
        description="oxidicom with each value of a setting, on the same rows.",
    )
    parser.add_argument("values", metavar="NAME=VALUE,VALUE", type=_values, nargs="+")
    _add_run(parser)
    return parser


def _micro_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks micro",
        description="oxidicom's compiled parsers, without sockets and files.",
    )
    _add_out(parser)
    return parser


_PARSERS = {"run": _run_parser, "sweep": _sweep_parser, "micro": _micro_parser}


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        *("--out", "-o"),
        type=Path,
        metavar="FOLDER",
        default=Path("build/benchmark"),
        help="for the report and its pictures; default: build/benchmark",
    )


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="the main rows, in two minutes")
    parser.add_argument("--rounds", type=_count, help="so many, however long they take")
    parser.add_argument("--rows", default="", help="keys of rows or patterns, with commas between")
    parser.add_argument(
        *("--root",),
        type=Path,
        metavar="FOLDER",
        help="store below it; default: in memory, where there is room",
    )
    parser.add_argument("--broker", metavar="URL", help="for oxidicom: OXIDICOM_CELERY_BROKER")
    parser.add_argument("--nats", metavar="ADDRESS", help="for oxidicom: OXIDICOM_NATS_ADDRESS")
    parser.add_argument(
        *("--env", "-e"),
        metavar="NAME=VALUE",
        type=_pair,
        action="append",
        default=[],
        help="any other setting of oxidicom; several times",
    )
    _add_out(parser)


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _values(text: str) -> tuple[str, list[str]]:
    name, values = _pair(text)
    return name, values.split(",")


def root_folder(asked: Path | None) -> Path:
    """Make a new folder to store below: in memory where there is room, so that no disk is
    measured."""
    if not asked and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM:
        asked = MEMORY
    return Path(tempfile.mkdtemp(prefix="oxidicom-bench-", dir=asked))
