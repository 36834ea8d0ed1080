"""docs/commands.md has every command with its options, and no others."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from oxidicom.cli import COMMANDS, parser_of_all

DOCUMENT = Path(__file__).parents[2] / "docs" / "commands.md"


def parsers_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return {
        name: command
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for name, command in action.choices.items()
    }


def options_of(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the options of a parser and of its subcommands."""
    for action in parser._actions:
        yield from (option for option in action.option_strings if option.startswith("--"))
    for below in parsers_of(parser).values():
        yield from options_of(below)


def sections() -> dict[str, str]:
    _, *parts = re.split(r"^## ", DOCUMENT.read_text(), flags=re.MULTILINE)
    return {title.strip(): text for title, _, text in (part.partition("\n") for part in parts)}


def test_every_command_has_a_section() -> None:
    assert list(sections()) == list(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_options_are_those_of_the_command(command: str) -> None:
    table = "\n".join(
        line.split("|")[1] for line in sections()[command].splitlines() if line.startswith("| `--")
    )
    documented = re.findall(r"--[a-z]+", table)
    assert sorted(documented) == sorted(
        set(options_of(parsers_of(parser_of_all())[command])) - {"--help"}
    )


def test_defaults_are_those_of_the_parser() -> None:
    commands = parsers_of(parser_of_all())
    for command, option, default in (
        ("echo", "timeout", 10),
        ("echo", "count", 1),
        ("send", "timeout", 60),
        ("send", "associations", 2),
        ("send", "retries", 2),
        ("watch", "rows", 20),
        ("status", "timeout", 5),
    ):
        assert commands[command].get_default(option) == default
        line = next(
            line
            for line in sections()[command].splitlines()
            if line.startswith("| `--") and f"`--{option}`" in line
        )
        assert re.search(rf"\b{default}\b", line), line
