"""Print a script with which a shell completes commands, options and files."""

from __future__ import annotations

import argparse
from typing import Final

from oxidicom.cli.arguments import set_epilog

SHELLS: Final = ("bash", "zsh", "tcsh")

_EPILOG: Final = """\
examples:
  oxidicom completion bash > /etc/bash_completion.d/oxidicom
  oxidicom completion zsh > ~/.zfunc/_oxidicom        # in a folder of $fpath
  oxidicom completion tcsh > /etc/profile.d/oxidicom.completion.csh
  eval "$(oxidicom completion bash)"                  # in this shell only
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help=", ".join(SHELLS))
    set_epilog(parser, _EPILOG)


def run(arguments: argparse.Namespace) -> int:
    import shtab

    from oxidicom.cli import parser_of_all

    print(shtab.complete(parser_of_all(), arguments.shell), end="")
    return 0
