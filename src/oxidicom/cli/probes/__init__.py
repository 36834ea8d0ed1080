"""The probes of `oxidicom check`: each takes the settings and returns its findings."""

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
"""Seconds that each server has to answer."""


_UNREACHABLE: Final = frozenset(
    (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL, errno.EACCES)
)


class Verdict(Enum):
    """How a finding is rated; the values are printed, the names are those of `--json`."""

    OK = "ok"
    NOT_SET = "not set"
    WARNING = "warning"
    """`serve` works without it."""
    FAULT = "FAULT"


class Finding(NamedTuple):
    """The result of a probe, in one line."""

    subject: str
    verdict: Verdict
    text: str


class CertificatesError(Exception):
    """OXIDICOM_BROKER_CA cannot be used; the text says why and what to do."""


def client_context(settings: Settings) -> ssl.SSLContext:
    """Return the TLS context for CUBE, the broker and NATS; without OXIDICOM_BROKER_CA
    SSL_CERT_FILE applies. Raises CertificatesError."""
    try:
        return certificates.client_context(settings.broker_ca)
    except OSError as error:
        words = "it holds none" if isinstance(error, ssl.SSLError) else error.strerror
        raise CertificatesError(
            f"no certificates from {settings.broker_ca}, {words}: correct OXIDICOM_BROKER_CA"
        ) from error


class QueueProbe(NamedTuple):
    """How `oxidicom check` examines CUBE's queue in one kind of broker."""

    describe_queue: Callable[[str, str, ssl.SSLContext | None], Awaitable[str]]
    """Return a sentence on the queue, from URL, queue name and TLS context; raises any error."""
    explain: Callable[[Exception, Server], str]
    """Return what an error of `describe_queue` means and what to do."""


class Server(NamedTuple):
    """A server that a probe connects to."""

    where: str
    """host:port"""
    language: str
    """The protocol that it speaks."""
    variable: str
    """The variable to set if `where` is wrong."""


def explain_connection_error(error: BaseException, server: Server) -> str:
    """Return why no connection was made and what to do about it, without secrets.

    The causes of the error are examined as well: libraries wrap the errors of the system.
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
    """Return the error and all its causes; asyncio puts several refusals into one group."""
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
