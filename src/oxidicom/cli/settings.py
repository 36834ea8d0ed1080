"""Print every setting as a Markdown table, or what is in force as JSON."""

from __future__ import annotations

import argparse

from oxidicom.cli.arguments import add_json, describe
from oxidicom.cli.console import EXIT_SETTINGS, print_json, settings_of_environment
from oxidicom.settings import effective, markdown_table

_MORE = """\
examples:
  oxidicom settings | less
  oxidicom settings --json | jq -r 'select(.default | not)'

exit status:
  0   printed
  2   with --json: settings at fault
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_json(parser, "what is in force in this environment, one object a line, secrets masked")
    describe(parser, _MORE)


def run(arguments: argparse.Namespace) -> int:
    if not arguments.json:
        print(markdown_table(), end="")
        return 0
    loaded = settings_of_environment()
    if loaded is None:
        return EXIT_SETTINGS
    for name, value, is_default in effective(loaded[0]):
        print_json({"name": name, "value": value, "default": is_default})
    return 0
