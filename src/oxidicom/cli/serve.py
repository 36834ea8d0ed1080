"""Receive instances until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse

from oxidicom.cli.arguments import set_epilog
from oxidicom.cli.console import EXIT_SETTINGS, settings_of_environment

_EPILOG = """\
example:
  OXIDICOM_FILES_ROOT=/data OXIDICOM_LISTENER_PORT=11111 oxidicom serve

exit status:
  0   ended by SIGTERM or SIGINT; every acknowledged instance is stored
  1   could not start, or could not continue
  2   the settings are invalid
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    set_epilog(parser, _EPILOG)


def run(arguments: argparse.Namespace) -> int:
    loaded = settings_of_environment(print_warnings=False)  # the log reports them
    if loaded is None:
        return EXIT_SETTINGS
    from oxidicom import app  # imported late, because no other command needs it

    return app.run(*loaded)
