"""Send DICOM files to a peer (C-STORE), over several associations, again what failed."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final

from oxidicom.cli.arguments import FILE, add_json, describe, number
from oxidicom.cli.console import (
    EXIT_FAULT,
    ArgumentsError,
    complain,
    is_terminal,
    print_json,
    printable,
)
from oxidicom.cli.peer import add_peer, peer_of
from oxidicom.errors import OperatorError
from oxidicom.scu.connection import Peer
from oxidicom.scu.files import Candidate, candidates, read_listed, write_listed
from oxidicom.scu.sending import Sending, SendTally

_SHOWN: Final = 10
"""Failures that are told one by one on stderr."""

_TICK: Final = 0.1
"""Seconds between two looks at how far it is."""

_MORE: Final = """\
PATHS are files, folders (with all below) and patterns ('studies/**/*.dcm', quoted). Of folders and
patterns only DICOM files are sent: those with a preamble, and data sets without one. Data sets go
out byte for byte as they are in the files, so the peer has to take their transfer syntax. Options
stand before or after PATHS HOST PORT, not between them.

What fails is tried again on a new association. What finally failed is listed in the file of
--failed, which --from sends; so are, after Ctrl-C, all that were not sent.

examples:
  oxidicom send ~/studies 127.0.0.1 11111 --aet ChRIS
  oxidicom send a.dcm 'b/**/*.dcm' pacs.example.org 104 --associations 4 --failed failed.txt
  oxidicom send --from failed.txt pacs.example.org 104

exit status:
  0     every DICOM file is stored, as the peer says; warnings count as stored
  1     some are not, or there was none: see stderr, and the file of --failed
  2     arguments at fault
  130   interrupted
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    paths = parser.add_argument("paths", metavar="PATHS", nargs="*")
    paths.complete = FILE  # type: ignore[attr-defined]
    add_peer(parser, timeout=60.0)
    parser.add_argument(
        "--associations",
        metavar="N",
        default=2,
        type=number("associations", 1, 64),
        help="at once (%(default)s)",
    )
    parser.add_argument(
        "--retries",
        metavar="N",
        default=2,
        type=number("retries", 0, 100),
        help="further attempts for what failed, or to associate (%(default)s)",
    )
    for option, meaning in (
        ("--failed", "write here what finally failed, a path a line"),
        ("--from", "send what is listed in this file, beside PATHS"),
    ):
        argument = parser.add_argument(
            option, metavar="FILE", type=Path, dest=f"{option[2:]}_file", help=meaning
        )
        argument.complete = FILE  # type: ignore[attr-defined]
    add_json(parser, "one object, of what came of it")
    describe(parser, _MORE)


def run(arguments: argparse.Namespace) -> int:
    if not arguments.paths and arguments.from_file is None:
        raise ArgumentsError("nothing to send: give PATHS, or --from FILE")
    peer = peer_of(arguments)
    with contextlib.ExitStack() as stack:
        listed: IO[str] | None = None
        if arguments.from_file is not None:
            listed = stack.enter_context(_opened(arguments.from_file, "r"))
        failures = _Failures(arguments.failed_file, arguments.from_file)
        stack.callback(failures.close)
        sending = Sending(
            peer,
            _all(arguments.paths, listed),
            failures.add,
            associations=arguments.associations,
            retries=arguments.retries,
        )
        began = time.monotonic()
        show = is_terminal(sys.stderr) and not arguments.json
        interrupted = _carry_out(sending, failures, arguments.paths if show else None)
        seconds = time.monotonic() - began
    report = _report(peer, sending.tally, seconds, interrupted)
    report["failed_list"] = failures.listed
    if arguments.json:
        print_json(report)
    else:
        _print_summary(report)
    if interrupted:
        raise KeyboardInterrupt
    if sending.why_over:
        complain(f"gave up: {sending.why_over}")
    tally = sending.tally
    if not tally.failed and not tally.stored:
        complain("no DICOM files there")
    return EXIT_FAULT if tally.failed or not tally.stored else 0


def _opened(path: Path, mode: str) -> IO[str]:
    try:
        return path.open(mode, encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise ArgumentsError(f"{path}: {error.strerror}") from error


def _all(paths: list[str], listed: IO[str] | None) -> Iterator[Candidate]:
    yield from candidates(paths)
    if listed is not None:
        yield from (Candidate(path, True) for path in read_listed(listed))


class _Failures:
    """Lists what finally failed, and tells the first of it."""

    def __init__(self, path: Path | None, source: Path | None) -> None:
        if path is not None and source is not None and _same(path, source):
            raise ArgumentsError("--failed and --from are the same file")
        self._path = path
        # At once: so a fault of the path shows early, and no older list is taken for this one.
        self._file = None if path is None else _opened(path, "w")
        self._count = 0
        self.say: Callable[[str], None] = complain

    @property
    def wanted(self) -> bool:
        return self._file is not None

    @property
    def listed(self) -> str | None:
        """The list, if there is something on it."""
        return str(self._path) if self._file is not None and self._count else None

    def add(self, path: Path, why: str) -> None:
        self._count += 1
        if self._file is not None:
            try:
                write_listed(self._file, path)
            except OSError as error:
                raise OperatorError(f"{self._path}: {error.strerror}") from error
        if self._count <= _SHOWN:
            self.say(f"{printable(str(path))}: {why}")
        elif self._count == _SHOWN + 1:
            self.say("further failures are counted, and listed if there is --failed")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)


def _carry_out(sending: Sending, failures: _Failures, shown: list[str] | None) -> bool:
    """Whether it was interrupted; a second interruption is KeyboardInterrupt. Draws progress for
    the paths `shown`."""
    with contextlib.ExitStack() as stack:
        draw: Callable[[SendTally], None] = _draw_nothing
        if shown is not None:
            from oxidicom.cli.send_progress import Drawing

            drawing = stack.enter_context(Drawing(shown))
            draw, failures.say = drawing.update, drawing.say
        sending.start()
        try:
            while not sending.wait(_TICK):
                draw(sending.tally)
        except KeyboardInterrupt:
            sending.stop("interrupted", skip_rest=not failures.wanted)
            failures.say("stopping; what is on its way is waited for, Ctrl-C again does not wait")
            while not sending.wait(_TICK):
                draw(sending.tally)
            return True
        draw(sending.tally)
    return False


def _draw_nothing(tally: SendTally) -> None:
    """Not on a terminal."""


def _report(peer: Peer, tally: SendTally, seconds: float, interrupted: bool) -> dict[str, Any]:
    return {
        "peer": peer.where,
        "called_aet": peer.called,
        "stored": tally.stored,
        "warnings": tally.warned,
        "failed": tally.failed,
        "skipped": tally.skipped,
        "bytes": tally.bytes,
        "seconds": round(seconds, 3),
        "instances_per_second": round(tally.stored / seconds, 1),
        "megabytes_per_second": round(tally.bytes / seconds / 1e6, 2),
        "associations": tally.associations,
        "rounds": tally.rounds,
        "statuses": dict(tally.statuses.most_common()),
        "failures": dict(tally.reasons.most_common()),
        "interrupted": interrupted,
    }


def _print_summary(report: dict[str, Any]) -> None:
    print(
        f"{report['stored']} stored at {report['peer']} in {report['seconds']:.1f} s:"
        f" {report['instances_per_second']:.0f} instances/s,"
        f" {report['megabytes_per_second']:.1f} MB/s"
    )
    for status, count in report["statuses"].items():
        print(f"{count:>9}  {status}")
    if report["skipped"]:
        print(f"{report['skipped']:>9}  skipped, no DICOM files")
    if report["failed"]:
        print(f"{report['failed']} failed:")
        for why, count in report["failures"].items():
            print(f"{count:>9}  {why}")
    if report["failed_list"]:
        print(f"send them again: --from {report['failed_list']}")
