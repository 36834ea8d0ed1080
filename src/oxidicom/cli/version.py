"""Print the version."""

from __future__ import annotations

import argparse

from oxidicom import __version__


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


def run(arguments: argparse.Namespace) -> int:
    print(f"oxidicom {__version__}")
    return 0
