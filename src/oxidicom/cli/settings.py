"""Print every setting as a Markdown table."""

from __future__ import annotations

import argparse

from oxidicom.settings import markdown_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


def run(arguments: argparse.Namespace) -> int:
    print(markdown_table(), end="")
    return 0
