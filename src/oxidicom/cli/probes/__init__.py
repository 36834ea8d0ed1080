"""The probes of `oxidicom check`, and what they have in common.

A probe is a function that takes the settings, tests one part of what `serve` needs, and returns
its findings.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Final, NamedTuple

from oxidicom import certificates
from oxidicom.logevents import verification_text
from oxidicom.settings import Settings

PROBE_LIMIT_S: Final = 5.0
"""Time limit in seconds for a server to answer."""


_UNREACHABLE: Final = frozenset(
    (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL, errno.EACCES)
)
"""Values of errno that mean that no packet can reach the server."""


class Verdict(Enum):
    """The rating of a finding. The value is printed; `--json` prints the name in lower case."""

    OK = "ok"
    NOT_SET = "not set"
    WARNING = "warning"
    """A problem in spite of which `serve` works."""
    FAULT = "FAULT"
    """A problem that keeps `serve` from working."""


class Finding(NamedTuple):
    """One result of a probe, printed as one line."""

    subject: str
    """What was examined, such as broker or PACS."""
    verdict: Verdict
    text: str
    """What was found and, for a fault, what to do. It contains no secrets."""


class CertificatesError(Exception):
    """The file OXIDICOM_BROKER_CA cannot be used. The text says why and what to do."""


def client_context(settings: Settings) -> ssl.SSLContext:
    """Return the TLS context for connections to CUBE, the broker and NATS.

    Without OXIDICOM_BROKER_CA it trusts the system's authorities, or those in SSL_CERT_FILE.
    Raises CertificatesError.
    """
    try:
        return certificates.client_context(settings.broker_ca)
    except OSError as error:
        words = "it holds none" if isinstance(error, ssl.SSLError) else error.strerror
        raise CertificatesError(
            f"no certificates from {settings.broker_ca}, {words}: correct OXIDICOM_BROKER_CA"
        ) from error


class QueueProbe(NamedTuple):
    """The functions by which `oxidicom check` examines CUBE's queue in one kind of broker."""

    describe_queue: Callable[[str, str, ssl.SSLContext | None], Awaitable[str]]
    """Function that logs in to the broker and returns the state of the queue as text.

    It takes the URL, the queue's name, and the TLS context or None. It may raise any Exception."""
    explain: Callable[[Exception, Server], str]
    """Function that returns what an exception of `describe_queue` means and what to do."""


class Server(NamedTuple):
    """A server that a probe connects to."""

    where: str
    """Its address as host:port."""
    language: str
    """Name of the protocol that it should speak."""
    variable: str
    """Name of the variable that holds its address."""


def explain_connection_error(error: BaseException, server: Server) -> str:
    """Return why connecting to `server` failed and what to do about it, without secrets.

    The causes of `error` are examined, too, because libraries wrap the errors of the system.
    """
    where, language, variable = server
    causes = _causes(error)
    for cause in causes:
        match cause:
            case socket.gaierror():
                return f"the name in {where} does not resolve: correct {variable} or your DNS"
            case ssl.SSLCertVerificationError():
                return (
                    f"the certificate of {where} is not trusted ({verification_text(cause)}): set"
                    " OXIDICOM_BROKER_CA or SSL_CERT_FILE to the certificates of its authority,"
                    f" or correct the host in {variable}"
                )
            case ConnectionRefusedError():
                return f"nothing listens at {where}: start it there, or correct {variable}"
            case TimeoutError():
                return (
                    f"{where} does not answer within {PROBE_LIMIT_S:.0f} s: it is down, overloaded"
                    f" or behind a firewall, or {variable} is wrong"
                )
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno in _UNREACHABLE:
            words = os.strerror(cause.errno)
            return f"{where} cannot be reached ({words}): correct the network or {variable}"
    return (
        f"the server at {where} does not speak {language}: correct host, port or"
        f" scheme (with or without TLS) in {variable}"
    )


def _causes(error: BaseException) -> list[BaseException]:
    """Return the error, its causes and contexts, and the members of exception groups.

    asyncio raises a group if several addresses of one host refuse the connection.
    """
    causes: list[BaseException] = []
    pending: list[BaseException | None] = [error]
    while pending:
        each = pending.pop(0)
        if each is None or each in causes:
            continue
        causes.append(each)
        if isinstance(each, BaseExceptionGroup):
            pending += each.exceptions
        pending += [each.__cause__, each.__context__]
    return causes
