"""Print a Markdown table of every setting, or the values in force as JSON."""

from __future__ import annotations

import argparse

from oxidicom.cli.arguments import add_json, set_epilog
from oxidicom.cli.console import EXIT_SETTINGS, print_json, settings_of_environment
from oxidicom.settings import effective, markdown_table

_EPILOG = """\
examples:
  oxidicom settings | less
  oxidicom settings --json | jq -r 'select(.default | not)'

exit status:
  0   printed
  2   with --json: the settings are invalid
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_json(
        parser, "print the values in force instead, one JSON object a line, with secrets masked"
    )
    set_epilog(parser, _EPILOG)


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
