"""What several commands have among their arguments."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Final

FILE: Final = {"bash": "_shtab_compgen_files", "zsh": "_files", "tcsh": "f"}
"""How shells complete a path, as shtab wants it of an argument's attribute `complete`."""


def describe(parser: argparse.ArgumentParser, more: str) -> None:
    """`more` is examples and exit statuses, as they are to be shown."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = more


def add_json(parser: argparse.ArgumentParser, form: str = "one object a line") -> None:
    parser.add_argument("--json", action="store_true", help=form)


def ae_title(text: str) -> str:
    from oxidicom.settings.parsing import is_ae_title

    if not is_ae_title(text):
        raise argparse.ArgumentTypeError("an AE title has 1 to 16 characters of ASCII")
    return text


def number(what: str, least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"{what} is a number from {least} to {most}")
        return int(text)

    return parse


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value <= 86_400.0:
        raise argparse.ArgumentTypeError("seconds are a number above 0, of a day at most")
    return value
