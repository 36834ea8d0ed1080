"""Print a script that completes commands, options and files in a shell."""

from __future__ import annotations

import argparse
from typing import Final

from oxidicom.cli.arguments import describe

SHELLS: Final = ("bash", "zsh", "tcsh")

_MORE: Final = """\
examples:
  oxidicom completion bash > /etc/bash_completion.d/oxidicom
  oxidicom completion zsh > ~/.zfunc/_oxidicom        # a folder of $fpath
  oxidicom completion tcsh > /etc/profile.d/oxidicom.completion.csh
  eval "$(oxidicom completion bash)"                  # of this shell only
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help=", ".join(SHELLS))
    describe(parser, _MORE)


def run(arguments: argparse.Namespace) -> int:
    import shtab

    from oxidicom.cli import parser_of_all

    print(shtab.complete(parser_of_all(), arguments.shell), end="")
    return 0
