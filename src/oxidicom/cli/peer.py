"""The arguments that describe a DICOM peer: address, AE titles, time limit and certificates."""

from __future__ import annotations

import argparse
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from oxidicom.certificates import client_context
from oxidicom.cli.arguments import FILE, ae_title, number, seconds
from oxidicom.cli.console import ArgumentsError
from oxidicom.scu.connection import Peer
from oxidicom.scu.errors import Fault, ScuError


def add_peer(parser: argparse.ArgumentParser, timeout: float) -> None:
    """Add the arguments of a peer; `timeout` is the default of --timeout in seconds."""
    parser.add_argument("host", metavar="HOST")
    parser.add_argument("port", metavar="PORT", type=number("a port", 1, 65535))
    parser.add_argument(
        "--aet", default="ANY-SCP", type=ae_title, help="called AE title (%(default)s)"
    )
    parser.add_argument(
        "--calling", default="OXIDICOM", type=ae_title, help="our AE title (%(default)s)"
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        default=timeout,
        type=seconds,
        help="time limit to connect and for each answer (%(default)g)",
    )
    tls = parser.add_argument_group(
        "TLS", "The peer's certificate is always verified and must be valid for HOST."
    )
    tls.add_argument(
        "--tls",
        action="store_true",
        help="use TLS; trust the system's authorities if there is no --ca",
    )
    for option, meaning in (
        ("--ca", "certificates of the authorities to trust (PEM)"),
        ("--cert", "our certificate, if the peer asks for one (PEM)"),
        ("--key", "its private key, if it is not in the same file (PEM)"),
    ):
        argument = tls.add_argument(
            option, metavar="FILE", type=Path, help=f"{meaning}; implies --tls"
        )
        argument.complete = FILE  # type: ignore[attr-defined]


def peer_of(arguments: argparse.Namespace) -> Peer:
    """Return the peer in the arguments. Raises ArgumentsError for invalid TLS options."""
    return Peer(
        host=arguments.host,
        port=arguments.port,
        called=arguments.aet,
        calling=arguments.calling,
        timeout=arguments.timeout,
        tls=_tls_context(arguments),
    )


def _tls_context(arguments: argparse.Namespace) -> ssl.SSLContext | None:
    if arguments.key and not arguments.cert:
        raise ArgumentsError("--key has no effect without --cert")
    if not (arguments.tls or arguments.ca or arguments.cert):
        return None
    try:
        context = client_context(arguments.ca)
    except OSError as error:
        raise ArgumentsError(f"--ca {arguments.ca}: {_words(error)}") from error
    if arguments.cert:
        try:
            context.load_cert_chain(arguments.cert, arguments.key)
        except OSError as error:
            both = " and --key ".join(str(each) for each in (arguments.cert, arguments.key) if each)
            raise ArgumentsError(f"--cert {both}: {_words(error)}") from error
    return context


def _words(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return "it is not PEM, or the key does not belong to the certificate"
    return error.strerror or type(error).__name__


_ADVICE: Final[Mapping[Fault, str]] = {
    Fault.NAME: "correct HOST, or your DNS",
    Fault.REFUSED: "start it there, or correct HOST and PORT",
    Fault.UNREACHABLE: "check the network, or correct HOST",
    Fault.TIMEOUT: "check the machine and the firewalls on the way, or raise --timeout",
    Fault.TLS: "name its authority with --ca, use the host name in its certificate, or check"
    " that the port offers TLS",
    Fault.ABORTED: "see the peer's log for the reason",
    Fault.CLOSED: "see the peer's log for the reason; a TLS port closes connections without --tls",
    Fault.PROTOCOL: "correct PORT, or use --tls if the port needs it",
    Fault.CONTEXT: "configure the peer to accept it",
    Fault.STATUS: "see the peer's log for the reason",
}


def advice(error: ScuError, peer: Peer) -> str:
    """Return what the operator can do about an error, or an empty text."""
    if error.fault is Fault.REJECTED:
        text = str(error)
        if "called AE title" in text:
            return f"the peer's AE title is not {peer.called}: correct --aet"
        if "calling AE title" in text:
            return f"make {peer.calling} known to the peer, or set --calling to a title it knows"
        if "congestion" in text or "limit" in text:
            return "the peer has too many associations: try later, or with fewer"
        return "see the peer's log for the reason"
    return _ADVICE.get(error.fault, "")
