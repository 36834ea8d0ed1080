"""Arguments that several commands have, and parsers of the values of arguments."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Final

FILE: Final = {"bash": "_shtab_compgen_files", "zsh": "_files", "tcsh": "f"}
"""How shells complete a path. It is set as attribute `complete` of an argument, for shtab."""


def set_epilog(parser: argparse.ArgumentParser, epilog: str) -> None:
    """Show `epilog` below the help with its line breaks."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = epilog


def add_json(parser: argparse.ArgumentParser, form: str = "print one JSON object a line") -> None:
    """Add the option --json; `form` is its help text."""
    parser.add_argument("--json", action="store_true", help=form)


def ae_title(text: str) -> str:
    """Return an AE title as written. Raises ArgumentTypeError for an invalid one."""
    from oxidicom.settings.parsing import is_ae_title

    if not is_ae_title(text):
        raise argparse.ArgumentTypeError("an AE title has 1 to 16 ASCII characters")
    return text


def number(what: str, least: int, most: int) -> Callable[[str], int]:
    """Return a parser of whole numbers from `least` to `most`.

    It raises ArgumentTypeError, with `what` as the name of the value.
    """

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(
                f"{what} must be a whole number from {least} to {most}"
            )
        return int(text)

    return parse


def seconds(text: str) -> float:
    """Parse seconds, above 0 and at most one day. Raises ArgumentTypeError."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value <= 86_400.0:
        raise argparse.ArgumentTypeError("seconds must be a number above 0 and at most 86400")
    return value
