"""Receive, until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse

from oxidicom.cli.arguments import describe
from oxidicom.cli.console import EXIT_SETTINGS, settings_of_environment

_MORE = """\
example:
  OXIDICOM_FILES_ROOT=/data OXIDICOM_LISTENER_PORT=11111 oxidicom serve

exit status:
  0   ended by SIGTERM or SIGINT, all that was acknowledged is stored
  1   could not start, or could not go on
  2   settings at fault
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The environment says it all."""
    describe(parser, _MORE)


def run(arguments: argparse.Namespace) -> int:
    loaded = settings_of_environment(say_warnings=False)  # they go into the log
    if loaded is None:
        return EXIT_SETTINGS
    from oxidicom import app  # all that receiving needs, which no other command does

    return app.run(*loaded)
