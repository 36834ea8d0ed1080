"""The command line. Without a command it serves, as the reference's binary does."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Final

from oxidicom.cli.arguments import describe
from oxidicom.cli.console import EXIT_FAULT, EXIT_SETTINGS, ArgumentsError, complain
from oxidicom.errors import OperatorError

COMMANDS: Final = (
    *("serve", "check", "status", "watch", "outbox"),
    *("echo", "send", "settings", "completion", "version"),
)
"""Each is a module here, has a docstring whose first line is its help, `add_arguments(parser)`, and
`run(arguments)` that returns an exit status. Only the one that is called is imported."""

EXIT_INTERRUPTED: Final = 130

_MORE: Final = """\
Everything that `serve` does is set by environment variables: see `oxidicom settings`. Each command
has --help with examples. Where there is --json, only that is on stdout.

exit status:
  0     done, and all is well
  1     not done, or not all is well: stderr says what and what to do
  2     arguments or settings at fault
  3     of `outbox list`: there are entries that need you
  130   interrupted (Ctrl-C), also of those that go on until then, as `watch`
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 2 for settings or arguments at fault."""
    argv = sys.argv[1:] if argv is None else argv
    wanted = argv[0] if argv else "serve"
    arguments = _parser([wanted] if wanted in COMMANDS else COMMANDS).parse_args(argv)
    try:
        run = getattr(arguments, "run", None) or _module("serve").run
        status = int(run(arguments))
        print(end="", flush=True)
        return status
    except OperatorError as error:
        for fault in error.faults:
            complain(fault)
        return EXIT_SETTINGS if isinstance(error, ArgumentsError) else EXIT_FAULT
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # whoever read our output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is flushed at exit
        return EXIT_FAULT


def parser_of_all() -> argparse.ArgumentParser:
    return _parser(COMMANDS)


def _parser(commands: Iterable[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="oxidicom",
        description="A DICOM receiver for ChRIS. Without a command: serve.",
        allow_abbrev=False,
    )
    describe(parser, _MORE)
    subparsers = parser.add_subparsers(title="commands", metavar="command")
    for name in commands:
        module = _module(name)
        help_line = (module.__doc__ or "").partition("\n")[0]
        command = subparsers.add_parser(
            name, help=help_line, description=help_line, allow_abbrev=False
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"oxidicom.cli.{name}")
