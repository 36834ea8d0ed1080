"""What `oxidicom check` tries: each probe takes the settings and tells what it found, in words."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from enum import Enum
from typing import Final, NamedTuple

from oxidicom import certificates
from oxidicom.logevents import verification_text
from oxidicom.settings import Settings

LIMIT: Final = 5.0
"""Seconds that a broker has to answer."""


_UNREACHABLE: Final = frozenset(
    (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL, errno.EACCES)
)


class Verdict(Enum):
    OK = "ok"
    NOT_SET = "not set"
    WARNING = "warning"
    """Something that `serve` does without."""
    FAULT = "FAULT"


class Finding(NamedTuple):
    subject: str
    verdict: Verdict
    text: str


class CertificatesError(Exception):
    """OXIDICOM_BROKER_CA is at fault; the text says how."""


def client_context(settings: Settings) -> ssl.SSLContext:
    """SSL_CERT_FILE is honoured where OXIDICOM_BROKER_CA is not set; raises CertificatesError."""
    try:
        return certificates.client_context(settings.broker_ca)
    except OSError as error:
        words = "it holds none" if isinstance(error, ssl.SSLError) else error.strerror
        raise CertificatesError(
            f"no certificates from {settings.broker_ca}, {words}: correct OXIDICOM_BROKER_CA"
        ) from error


class Server(NamedTuple):
    """Somebody to connect to."""

    where: str
    """host:port"""
    language: str
    variable: str
    """What to set if `where` is wrong."""


def connection_trouble(error: BaseException, server: Server) -> str:
    """Why no connection came about, whose fault that is and what to do; never a secret.

    The libraries wrap what the system said, so the causes are looked through too.
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
                    f"{where} does not answer within {LIMIT:.0f} s: it is down, overloaded or"
                    f" behind a firewall, or {variable} is wrong"
                )
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno in _UNREACHABLE:
            words = os.strerror(cause.errno)
            return f"no way to {where} ({words}): correct the network or {variable}"
    return (
        f"what answers at {where} does not speak {language} as we do: correct host, port or"
        f" scheme (with or without TLS) in {variable}"
    )


def _causes(error: BaseException) -> list[BaseException]:
    """Itself, then what lies behind it; asyncio packs several refusals into one group."""
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
