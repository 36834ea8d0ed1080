"""Receive, until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse

from oxidicom.cli.console import EXIT_SETTINGS, settings_of_environment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None: the environment says it all."""


def run(arguments: argparse.Namespace) -> int:
    loaded = settings_of_environment(say_warnings=False)  # they go into the log
    if loaded is None:
        return EXIT_SETTINGS
    from oxidicom import app  # all that receiving needs, which no other command does

    return app.run(*loaded)
