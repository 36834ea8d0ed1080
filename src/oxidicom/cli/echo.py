"""Test whether a DICOM peer answers a C-ECHO, and name the cause if it does not."""

from __future__ import annotations

import argparse
import time
from typing import Any, Final

from oxidicom.cli.arguments import add_json, number, set_epilog
from oxidicom.cli.console import EXIT_FAULT, print_error, print_json
from oxidicom.cli.peer import add_peer, advice, peer_of
from oxidicom.scu.association import VERIFICATION_CONTEXT, Association
from oxidicom.scu.connection import Peer
from oxidicom.scu.errors import ScuError

_EPILOG: Final = """\
examples:
  oxidicom echo pacs.example.org 104 --aet PACS --calling ChRIS
  oxidicom echo localhost 2762 --ca hospital.pem --count 5
  oxidicom echo 127.0.0.1 11111 --json

exit status:
  0   the peer answered
  1   it did not: stderr says why and what to do
  2   the arguments are invalid
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_peer(parser, timeout=10.0)
    parser.add_argument(
        "--count",
        metavar="N",
        default=1,
        type=number("a count", 1, 1_000_000),
        help="number of echoes (%(default)s)",
    )
    add_json(parser, "print one JSON object")
    set_epilog(parser, _EPILOG)


def run(arguments: argparse.Namespace) -> int:
    peer = peer_of(arguments)
    found: dict[str, Any] = {
        "peer": peer.where,
        "called_aet": peer.called,
        "calling_aet": peer.calling,
        "ok": False,
        "tls": None,
        "connect_ms": None,
        "associate_ms": None,
        "echo_ms": [],
        "fault": None,
        "error": None,
    }
    failure = None
    try:
        _echo(peer, arguments.count, found, verbose=not arguments.json)
        found["ok"] = True
    except ScuError as error:
        failure = error
        found |= {"fault": error.fault.value, "error": str(error)}
    if arguments.json:
        print_json(found)
    elif failure is not None:
        print_error(f"{failure}; {advice(failure, peer)}")
    elif arguments.count > 1:
        times = found["echo_ms"]
        print(f"{len(times)} echoes: {min(times)} to {max(times)} ms")
    return 0 if failure is None else EXIT_FAULT


def _echo(peer: Peer, count: int, found: dict[str, Any], *, verbose: bool) -> None:
    with Association(peer, (VERIFICATION_CONTEXT,)) as association:
        found["tls"] = association.tls_version
        found["connect_ms"] = _ms(association.connect_seconds)
        found["associate_ms"] = _ms(association.associate_seconds)
        if verbose:
            encrypted = f" with {association.tls_version}" if association.tls_version else ""
            print(
                f"{peer.where} accepts {peer.calling}: connected{encrypted} in"
                f" {found['connect_ms']} ms, associated in {found['associate_ms']} ms",
                flush=True,
            )
        for _ in range(count):
            began = time.perf_counter()
            association.echo()
            took = _ms(time.perf_counter() - began)
            found["echo_ms"].append(took)
            if verbose:
                print(f"C-ECHO answered in {took} ms", flush=True)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)
