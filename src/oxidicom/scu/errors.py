"""The error of an association that we request, or of one operation on it."""

from __future__ import annotations

import os
import socket
import ssl
from enum import Enum

from oxidicom.errors import OxidicomError
from oxidicom.logevents import verification_text


class Fault(Enum):
    """The kind of an error. The values are an interface: `--json` prints them."""

    NAME = "name"
    """The host's name does not resolve."""
    REFUSED = "refused"
    """No program listens at the address."""
    UNREACHABLE = "unreachable"
    """The network has no route to the host."""
    TIMEOUT = "timeout"
    """The peer did not answer in time."""
    TLS = "tls"
    """The handshake failed, or a certificate is not trusted."""
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
    """The peer responded with a status of failure."""
    FILE = "file"
    """A local file cannot be read, or is not DICOM."""


_PERMANENT_FAULTS = frozenset((Fault.NAME, Fault.TLS, Fault.CONTEXT, Fault.FILE))


class ScuError(OxidicomError):
    """An association, or one operation on it, failed.

    `str()` is meant for a person and holds no patient data. `fatal`: the association is over.
    `permanent`: a repetition would fail in the same way.
    """

    def __init__(
        self, fault: Fault, text: str, *, fatal: bool = True, permanent: bool = False
    ) -> None:
        super().__init__(text)
        self.fault = fault
        self.fatal = fatal
        self.permanent = permanent or fault in _PERMANENT_FAULTS


def connection_error(error: OSError | UnicodeError, where: str, timeout: float) -> ScuError:
    """Return the ScuError for a failure of the network on the way to `where` (host:port).

    `timeout` is the number of seconds after which a TimeoutError was raised.
    """
    match error:
        case socket.gaierror() | UnicodeError():  # the latter: it cannot be a name (RFC 3490)
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
