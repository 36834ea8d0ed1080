"""docs/logs.md lists exactly the messages of the sources, with their levels and fields."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.log_calls import LogCall, direct_calls, log_calls

DOCS = Path(__file__).parents[2] / "docs" / "logs.md"

BESIDE = {"log lines dropped"}
"""Messages that are written without `event`, by the handler of the lines."""

ALWAYS = {"timestamp", "level", "logger", "message"}


def rows(heading: str) -> Iterator[list[str]]:
    section = DOCS.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    for line in section.splitlines():
        if line.startswith("| ") and not line.startswith("| ---"):
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


def documented() -> dict[str, tuple[set[str], set[str], set[str]]]:
    """Return levels, fields and optional fields by message."""
    return {
        message: (
            set(levels.split(" / ")),
            set(re.findall(r"(?<!\()`(\w+)`", fields)),
            set(re.findall(r"\(`(\w+)`\)", fields)),
        )
        for message, levels, fields, _ in list(rows("Messages"))[1:]
    }


@pytest.fixture(scope="module")
def calls() -> list[LogCall]:
    return log_calls()


def test_every_message_is_a_constant_with_constant_levels(calls: list[LogCall]) -> None:
    assert len(calls) > 50, "the calls were found"
    assert [call.where for call in calls if not call.messages or not call.levels] == []
    assert [where for where in direct_calls() if not where.startswith("logevents.py:")] == []


def test_messages_levels_and_fields_are_those_of_the_sources(calls: list[LogCall]) -> None:
    in_sources: dict[str, tuple[set[str], set[str], set[str]]] = {}
    for call in calls:
        row = (set(call.levels), set(call.fields), set(call.optional))
        for message in call.messages:
            assert in_sources.setdefault(message, row) == row, f"{call.where}: as elsewhere"
    in_docs = {name: row for name, row in documented().items() if name not in BESIDE}
    assert in_docs == in_sources


def test_every_field_is_explained(calls: list[LogCall]) -> None:
    explained = [
        name for row in list(rows("Fields"))[1:] for name in re.findall(r"`(\w+)`", row[0])
    ]
    assert len(explained) == len(set(explained))
    used = {field for call in calls for field in call.fields | call.optional}
    assert set(explained) == used | {"count"}
    assert used.isdisjoint(ALWAYS)
