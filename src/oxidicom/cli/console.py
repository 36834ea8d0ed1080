"""Output of the commands, exit statuses, and the settings from the environment."""

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
    """Invalid arguments. The exit status is 2, as for those that argparse itself finds."""


def print_error(line: str) -> None:
    """Print one line on stderr, after the program's name."""
    print(f"oxidicom: {line}", file=sys.stderr)


def print_warning(line: str) -> None:
    """Print one line on stderr as a warning."""
    print_error(f"warning: {line}")


def print_json(value: dict[str, Any]) -> None:
    """Print one object on one line of stdout."""
    print(json.dumps(value, ensure_ascii=False), flush=True)


def printable(text: str) -> str:
    """Escape characters of a sender that could control the terminal."""
    return "".join(each if each.isprintable() else f"\\x{ord(each):02x}" for each in text)


def is_terminal(stream: TextIO) -> bool:
    """Return whether to draw on a stream: not with NO_COLOR (https://no-color.org) or TERM=dumb."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def settings_of_environment(*, print_warnings: bool = True) -> tuple[Settings, list[str]] | None:
    """Return the settings and the warnings about them; print the latter if `print_warnings`.

    Returns None if the settings are invalid, after printing every fault on stderr.
    """
    from oxidicom.settings import load  # late: not every command needs it

    try:
        settings, warnings = load(os.environ)
    except OperatorError as error:
        for fault in error.faults:
            print_error(fault)
        for note in getattr(error, "__notes__", ()):
            print_warning(note)
        return None
    if print_warnings:
        for warning in warnings:
            print_warning(warning)
    return settings, warnings
