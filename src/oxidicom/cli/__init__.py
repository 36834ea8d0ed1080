"""The command line. Without a command it runs `serve`, as the reference's binary does."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Final

from oxidicom.cli.arguments import set_epilog
from oxidicom.cli.console import EXIT_FAULT, EXIT_SETTINGS, ArgumentsError, print_error
from oxidicom.errors import OperatorError

COMMANDS: Final = (
    *("serve", "check", "status", "watch", "outbox"),
    *("echo", "send", "settings", "completion", "version"),
)
"""Names of the commands. Each is a module of this package: the first line of its docstring is the
command's help, and it has `add_arguments(parser)` and `run(arguments)`, which returns the exit
status. Only the module of the command that is called is imported."""

EXIT_INTERRUPTED: Final = 130
"""Exit status of a command that Ctrl-C ended."""

_EPILOG: Final = """\
The settings of `serve` are environment variables: see `oxidicom settings`. Every command has
--help with examples. With --json, stdout has nothing but JSON.

exit status:
  0     the command succeeded, and what it examined is in order
  1     it failed, or found a fault: stderr says what is wrong and what to do
  2     the arguments or the settings are invalid
  3     `outbox list` only: some entries need an operator
  130   interrupted by Ctrl-C, which is also how `watch` ends
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status (0 to 3, or 130).

    `argv` are the arguments without the program's name; None takes those of this process. Raises
    SystemExit after --help, and for arguments that argparse rejects.
    """
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
            print_error(fault)
        return EXIT_SETTINGS if isinstance(error, ArgumentsError) else EXIT_FAULT
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the program that reads our output has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the flush at exit would fail
        return EXIT_FAULT


def parser_of_all() -> argparse.ArgumentParser:
    """Return the parser of the command line with every command."""
    return _parser(COMMANDS)


def _parser(commands: Iterable[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="oxidicom",
        description="A DICOM receiver for ChRIS. Without a command it runs `serve`.",
        allow_abbrev=False,
    )
    set_epilog(parser, _EPILOG)
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
