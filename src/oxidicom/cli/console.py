"""What several commands need: output, exit statuses, and the settings from the environment."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any, Final, TextIO

from oxidicom.errors import OperatorError

if TYPE_CHECKING:
    from oxidicom.settings import Settings

EXIT_FAULT: Final = 1
"""Exit status of a command that failed or found a fault."""
EXIT_SETTINGS: Final = 2
"""Exit status for invalid settings or arguments."""


class ArgumentsError(OperatorError):
    """Arguments are invalid. The exit status is 2, as for arguments that argparse rejects."""


def print_error(line: str) -> None:
    """Print one line on stderr, prefixed by the program's name."""
    print(f"oxidicom: {line}", file=sys.stderr)


def print_warning(line: str) -> None:
    """Print one line on stderr, prefixed by the program's name and warning."""
    print_error(f"warning: {line}")


def print_json(value: dict[str, Any]) -> None:
    """Print an object as one line of JSON on stdout."""
    print(json.dumps(value, ensure_ascii=False), flush=True)


def printable(text: str) -> str:
    """Return `text` with escapes in place of characters that are not printable.

    Text that comes from a peer could otherwise control the terminal.
    """
    return "".join(each if each.isprintable() else f"\\x{ord(each):02x}" for each in text)


def is_terminal(stream: TextIO) -> bool:
    """Return whether colours and cursor movements may be written to `stream`.

    That is True for a terminal, unless NO_COLOR (https://no-color.org) or TERM=dumb is set.
    """
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def settings_of_environment(*, print_warnings: bool = True) -> tuple[Settings, list[str]] | None:
    """Return the settings and the warnings about them, one line each.

    The warnings are printed on stderr, too, unless `print_warnings` is False. If the settings are
    invalid, every fault is printed on stderr and None is returned.
    """
    from oxidicom.settings import load  # imported late, because not every command needs it

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
