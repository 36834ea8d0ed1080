"""Arguments of `python -m samples`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from samples.push import WAYS
from samples.receiver import AE_TITLE, Destination


class Asked(argparse.Namespace):
    command: str
    folder: Path
    small: bool
    to: tuple[str, int] | None
    aet: str
    root: Path | None
    ways: list[str] | None

    @property
    def destination(self) -> Destination | None:
        """Address of the receiver, or None where one is to be started."""
        return Destination(*self.to, self.aet) if self.to else None


def ask(arguments: Sequence[str] | None = None) -> Asked:
    """Parse the arguments, by default the process' own. Exits with status 2 on wrong ones."""
    parser = argparse.ArgumentParser(
        prog="python -m samples",
        description="A study set of invented patients: CT, MR, ultrasound, a whole slide, "
        "radiotherapy and documents; pushed from a private Orthanc to a receiver.",
    )
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    building = commands.add_parser("build", help="write the study set into a folder")
    pushing = commands.add_parser("push", help="push what was built there")
    running = commands.add_parser("run", help="build, then push")
    for command in (building, pushing, running):
        command.add_argument("folder", type=Path, metavar="FOLDER")
    for command in (building, running):
        command.add_argument(
            "--small", action="store_true", help="2 MB with every kind in it, not 380 MB"
        )
    for command in (pushing, running):
        _add_push(command)
    asked = parser.parse_args(arguments, Asked(small=False, to=None, root=None))
    if asked.root and not asked.to:
        parser.error("--root is for a receiver that is named with --to")
    return asked


def _add_push(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--to",
        type=_host_and_port,
        metavar="HOST:PORT",
        help="a receiver that runs; default: our own, into FOLDER/received, without a broker",
    )
    parser.add_argument("--aet", default=AE_TITLE, help=f"its AE title; default: {AE_TITLE}")
    parser.add_argument(
        "--root", type=Path, help="its files root, if it can be seen from here, to look into"
    )
    parser.add_argument(
        "--way",
        dest="ways",
        action="append",
        choices=list(WAYS),
        help="only by Orthanc's own C-STORE, or only by a C-MOVE; default: by both",
    )


def _host_and_port(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isdecimal() and 0 < int(port) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host.strip("[]"), int(port)
