"""The command line. Without a command it serves, as the reference's binary does."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from types import ModuleType
from typing import Final

from oxidicom.cli import check, outbox, serve, settings, version
from oxidicom.cli.console import complain
from oxidicom.errors import OperatorError

_COMMANDS: Final[tuple[ModuleType, ...]] = (serve, check, outbox, settings, version)
"""Each has a docstring whose first line is its help, `add_arguments(parser)`, and `run(arguments)`
that returns an exit status."""

EXIT_FAULT: Final = 1
EXIT_INTERRUPTED: Final = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 2 for settings or arguments at fault."""
    arguments = _parser().parse_args(argv)
    run = getattr(arguments, "run", serve.run)
    try:
        status = int(run(arguments))
        print(end="", flush=True)
        return status
    except OperatorError as error:
        for fault in error.faults:
            complain(fault)
        return EXIT_FAULT
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # whoever read our output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is flushed at exit
        return EXIT_FAULT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="oxidicom",
        description="A DICOM receiver for ChRIS. Without a command: serve.",
        epilog="Everything is set by environment variables: see `oxidicom settings`.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(title="commands", metavar="command")
    for module in _COMMANDS:
        help_line = (module.__doc__ or "").partition("\n")[0]
        command = commands.add_parser(
            module.__name__.rpartition(".")[2], help=help_line, description=help_line
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser
