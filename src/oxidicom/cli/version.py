"""Print the version."""

from __future__ import annotations

import argparse
import platform

from oxidicom import __version__
from oxidicom.cli.arguments import add_json
from oxidicom.cli.console import print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_json(parser, "print one JSON object, with the version of Python too")


def run(arguments: argparse.Namespace) -> int:
    if arguments.json:
        print_json({"version": __version__, "python": platform.python_version()})
        return 0
    print(f"oxidicom {__version__}")
    return 0
