"""Arguments of the commands that call a DICOM peer: whom, as whom, with what certificates."""

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
        help="for each answer, and to connect (%(default)g)",
    )
    tls = parser.add_argument_group(
        "TLS", "The peer's certificate is always verified, and its name is HOST."
    )
    tls.add_argument("--tls", action="store_true", help="with the system's authorities, if no --ca")
    for option, meaning in (
        ("--ca", "authorities to trust (PEM)"),
        ("--cert", "our certificate, where the peer asks for one (PEM)"),
        ("--key", "its private key, if it is not in the same file (PEM)"),
    ):
        argument = tls.add_argument(option, metavar="FILE", type=Path, help=f"{meaning}; with TLS")
        argument.complete = FILE  # type: ignore[attr-defined]


def peer_of(arguments: argparse.Namespace) -> Peer:
    """Raises ArgumentsError for certificates that are none."""
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
        raise ArgumentsError("--key is of no use without --cert")
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
        return "not what it should be (PEM), or the key is not the certificate's"
    return error.strerror or type(error).__name__


_ADVICE: Final[Mapping[Fault, str]] = {
    Fault.NAME: "correct HOST, or your DNS",
    Fault.REFUSED: "start it there, or correct HOST and PORT",
    Fault.UNREACHABLE: "see to the network, or correct HOST",
    Fault.TIMEOUT: "see to the machine and the firewalls on the way, or raise --timeout",
    Fault.TLS: "give its authority with --ca, call it by the name in its certificate, or see"
    " whether that port has TLS at all",
    Fault.ABORTED: "its log says why",
    Fault.CLOSED: "its log says why; a port with TLS does so to those who come without --tls",
    Fault.PROTOCOL: "correct PORT, or --tls if it wants that",
    Fault.CONTEXT: "configure the peer to take it",
    Fault.STATUS: "its log says why",
}


def advice(trouble: ScuError, peer: Peer) -> str:
    """What to do about it."""
    if trouble.fault is Fault.REJECTED:
        text = str(trouble)
        if "called AE title" in text:
            return f"it is not {peer.called}: correct --aet"
        if "calling AE title" in text:
            return f"have it know {peer.calling}, or call as one that it knows, with --calling"
        if "congestion" in text or "limit" in text:
            return "it has too many associations: try later, or with fewer"
        return "its log says why"
    return _ADVICE.get(trouble.fault, "")
