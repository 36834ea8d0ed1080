"""The exception for a failed association that we requested, or for a failed operation on it."""

from __future__ import annotations

import os
import socket
import ssl
from enum import Enum

from oxidicom.errors import OxidicomError
from oxidicom.logevents import verification_text


class Fault(Enum):
    """The cause of a ScuError. The values are an interface: `--json` prints them."""

    NAME = "name"
    """The host's name does not resolve."""
    REFUSED = "refused"
    """No program listens at the address."""
    UNREACHABLE = "unreachable"
    """The network has no route to the host."""
    TIMEOUT = "timeout"
    """The peer did not answer in time."""
    TLS = "tls"
    """The TLS handshake failed, or a certificate is not trusted."""
    REJECTED = "rejected"
    """The peer sent A-ASSOCIATE-RJ."""
    ABORTED = "aborted"
    """The peer sent A-ABORT."""
    CLOSED = "closed"
    """The peer closed the connection without an A-ABORT."""
    PROTOCOL = "protocol"
    """The peer does not follow the DICOM protocol, or sends more than we accept."""
    CONTEXT = "context"
    """The peer does not accept the SOP class or the transfer syntax."""
    STATUS = "status"
    """The peer responded with a status other than success."""
    FILE = "file"
    """A local file cannot be read, or is not DICOM."""


_PERMANENT_FAULTS = frozenset((Fault.NAME, Fault.TLS, Fault.CONTEXT, Fault.FILE))


class ScuError(OxidicomError):
    """An association, or one operation on it, failed.

    `str()` gives a text for a person, without patient data. `fatal` is True if the association
    cannot be used again. `permanent` is True if another attempt would fail in the same way.
    """

    def __init__(
        self, fault: Fault, text: str, *, fatal: bool = True, permanent: bool = False
    ) -> None:
        super().__init__(text)
        self.fault = fault
        self.fatal = fatal
        self.permanent = permanent or fault in _PERMANENT_FAULTS


def connection_error(error: OSError | UnicodeError, where: str, timeout: float) -> ScuError:
    """Return the ScuError for a failed connection to `where` (host:port).

    `timeout` is the time limit in seconds that the text of a TimeoutError names.
    """
    match error:
        case socket.gaierror() | UnicodeError():  # UnicodeError: not a valid host name (RFC 3490)
            return ScuError(Fault.NAME, f"the name in {where} does not resolve")
        case ssl.SSLCertVerificationError():
            text = f"the certificate of {where} is not trusted: {verification_text(error)}"
            return ScuError(Fault.TLS, text)
        case ssl.SSLError():
            reason = (error.reason or "it does not speak TLS").lower().replace("_", " ")
            return ScuError(Fault.TLS, f"no TLS connection with {where}: {reason}")
        case ConnectionRefusedError():
            return ScuError(Fault.REFUSED, f"connection refused: nothing listens at {where}")
        case TimeoutError():
            text = (
                f"{where} does not answer within {timeout:g} s: it is down, hung or behind a"
                " firewall"
            )
            return ScuError(Fault.TIMEOUT, text)
        case ConnectionError():
            return ScuError(Fault.CLOSED, f"{where} closed the connection")
    words = os.strerror(error.errno) if error.errno else "network error"
    return ScuError(Fault.UNREACHABLE, f"{where} cannot be reached: {words}")
