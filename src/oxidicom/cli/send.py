"""Send DICOM files to a peer (C-STORE) over several associations, and repeat what failed."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final

from oxidicom.cli.arguments import FILE, add_json, number, set_epilog
from oxidicom.cli.console import (
    EXIT_FAULT,
    ArgumentsError,
    is_terminal,
    print_error,
    print_json,
    printable,
)
from oxidicom.cli.peer import add_peer, peer_of
from oxidicom.errors import OperatorError
from oxidicom.scu.connection import Peer
from oxidicom.scu.files import Candidate, candidates, read_listed, write_listed
from oxidicom.scu.sending import Sending, SendTally

_MAX_PRINTED_FAILURES: Final = 10
"""Number of failures that are printed one by one on stderr."""

_REDRAW_S: Final = 0.1
"""Seconds between two updates of the progress bar."""

_EPILOG: Final = """\
PATHS are files, folders (with everything below them) and quoted patterns ('studies/**/*.dcm').
From folders and patterns only DICOM files are sent: those with a preamble, and data sets without
one. Data sets are sent byte for byte as they are in the files, so the peer must accept their
transfer syntax. Options go before or after PATHS HOST PORT, not between them.

A file that fails is sent again over a new association. With --failed, the files that failed every
time are listed in a file that --from can send; after Ctrl-C it lists every file not sent, too.

examples:
  oxidicom send ~/studies 127.0.0.1 11111 --aet ChRIS
  oxidicom send a.dcm 'b/**/*.dcm' pacs.example.org 104 --associations 4 --failed failed.txt
  oxidicom send --from failed.txt pacs.example.org 104

exit status:
  0     the peer has stored every DICOM file; a status of warning counts as stored
  1     some were not stored, or there was none: see stderr, and the file of --failed
  2     the arguments are invalid
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
        help="number of associations at once (%(default)s)",
    )
    parser.add_argument(
        "--retries",
        metavar="N",
        default=2,
        type=number("retries", 0, 100),
        help="further attempts to send a file or to associate (%(default)s)",
    )
    for option, meaning in (
        ("--failed", "list the files that were not stored in this file, one path a line"),
        ("--from", "send the files listed in this file, in addition to PATHS"),
    ):
        argument = parser.add_argument(
            option, metavar="FILE", type=Path, dest=f"{option[2:]}_file", help=meaning
        )
        argument.complete = FILE  # type: ignore[attr-defined]
    add_json(parser, "print one JSON object with the result")
    set_epilog(parser, _EPILOG)


def run(arguments: argparse.Namespace) -> int:
    if not arguments.paths and arguments.from_file is None:
        raise ArgumentsError("there is nothing to send: give PATHS, or --from FILE")
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
        draw = is_terminal(sys.stderr) and not arguments.json
        interrupted = _carry_out(sending, failures, arguments.paths if draw else None)
        seconds = time.monotonic() - began
    report = _report(peer, sending.tally, seconds, interrupted)
    report["failed_list"] = failures.listed
    if arguments.json:
        print_json(report)
    else:
        _print_summary(report)
    if interrupted:
        raise KeyboardInterrupt
    if sending.end_reason:
        print_error(f"gave up: {sending.end_reason}")
    tally = sending.tally
    if not tally.failed and not tally.stored:
        print_error("no DICOM files found")
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
    """Reports the files that were not stored: prints the first ones on stderr, and writes all to
    the file of --failed, if one is given."""

    def __init__(self, path: Path | None, source: Path | None) -> None:
        if path is not None and source is not None and _same(path, source):
            raise ArgumentsError("--failed and --from are the same file")
        self._path = path
        # Open it now, so that an invalid path is reported before sending and no older list remains.
        self._file = None if path is None else _opened(path, "w")
        self._count = 0
        self.print_line: Callable[[str], None] = print_error

    @property
    def is_listed(self) -> bool:
        """Whether failures are written to the file of --failed."""
        return self._file is not None

    @property
    def listed(self) -> str | None:
        """The path of the file with the failures; None if there is no file or no failure."""
        return str(self._path) if self._file is not None and self._count else None

    def add(self, path: Path, reason: str) -> None:
        """Record one file that was not stored, and the reason.

        Raises OperatorError if the file of --failed cannot be written.
        """
        self._count += 1
        if self._file is not None:
            try:
                write_listed(self._file, path)
            except OSError as error:
                raise OperatorError(f"{self._path}: {error.strerror}") from error
        if self._count <= _MAX_PRINTED_FAILURES:
            self.print_line(f"{printable(str(path))}: {reason}")
        elif self._count == _MAX_PRINTED_FAILURES + 1:
            self.print_line("further failures are counted, and listed with --failed")

    def close(self) -> None:
        """Close the file of --failed, if there is one."""
        if self._file is not None:
            self._file.close()


def _same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)


def _carry_out(sending: Sending, failures: _Failures, drawn_paths: list[str] | None) -> bool:
    """Run `sending` to its end; return True if Ctrl-C interrupted it.

    A second Ctrl-C raises KeyboardInterrupt. A progress bar is drawn unless `drawn_paths` is None;
    the files below these paths are counted for its total.
    """
    with contextlib.ExitStack() as stack:
        draw: Callable[[SendTally], None] = _draw_nothing
        if drawn_paths is not None:
            from oxidicom.cli.send_progress import Drawing

            drawing = stack.enter_context(Drawing(drawn_paths))
            draw, failures.print_line = drawing.update, drawing.print_line
        sending.start()
        try:
            while not sending.wait(_REDRAW_S):
                draw(sending.tally)
        except KeyboardInterrupt:
            sending.stop("interrupted", skip_rest=not failures.is_listed)
            failures.print_line(
                "stopping after the instances in progress; press Ctrl-C again to stop at once"
            )
            while not sending.wait(_REDRAW_S):
                draw(sending.tally)
            return True
        draw(sending.tally)
    return False


def _draw_nothing(tally: SendTally) -> None:
    """Draw nothing: stderr is not a terminal."""


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
        print(f"{report['skipped']:>9}  skipped: not DICOM files")
    if report["failed"]:
        print(f"{report['failed']} failed:")
        for reason, count in report["failures"].items():
            print(f"{count:>9}  {reason}")
    if report["failed_list"]:
        print(f"to send them again: --from {report['failed_list']}")
