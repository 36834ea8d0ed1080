"""What several commands say to the person at the terminal."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any, Final, TextIO

from oxidicom.errors import OperatorError

if TYPE_CHECKING:
    from oxidicom.settings import Settings

EXIT_FAULT: Final = 1
EXIT_SETTINGS: Final = 2


class ArgumentsError(OperatorError):
    """Exit status 2, as for what argparse itself finds."""


def complain(line: str) -> None:
    print(f"oxidicom: {line}", file=sys.stderr)


def warn(line: str) -> None:
    complain(f"warning: {line}")


def print_json(value: dict[str, Any]) -> None:
    """One object, one line."""
    print(json.dumps(value, ensure_ascii=False), flush=True)


def printable(text: str) -> str:
    """A sender's control characters are not the terminal's."""
    return "".join(each if each.isprintable() else f"\\x{ord(each):02x}" for each in text)


def is_terminal(stream: TextIO) -> bool:
    """Whether to draw on it. https://no-color.org, and the terminals that can do nothing."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def settings_of_environment(*, say_warnings: bool = True) -> tuple[Settings, list[str]] | None:
    """The settings and their warnings, which are on stderr if `say_warnings`; None if faults
    are."""
    from oxidicom.settings import load  # late: not every command has use for it

    try:
        settings, warnings = load(os.environ)
    except OperatorError as error:
        for fault in error.faults:
            complain(fault)
        for note in getattr(error, "__notes__", ()):
            warn(note)
        return None
    if say_warnings:
        for warning in warnings:
            warn(warning)
    return settings, warnings
