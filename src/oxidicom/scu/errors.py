"""Why an association, or an instance, came to nothing: whose fault, in words."""

from __future__ import annotations

import os
import socket
import ssl
from enum import Enum

from oxidicom.errors import OxidicomError
from oxidicom.logevents import verification_text


class Fault(Enum):
    """Stable names: `--json` prints them."""

    NAME = "name"
    """The host's name does not resolve."""
    REFUSED = "refused"
    """Nothing listens there."""
    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    TLS = "tls"
    REJECTED = "rejected"
    """A-ASSOCIATE-RJ."""
    ABORTED = "aborted"
    """A-ABORT."""
    CLOSED = "closed"
    """The connection ended without a word."""
    PROTOCOL = "protocol"
    """What answers does not speak DICOM, or not well."""
    CONTEXT = "context"
    """SOP class or transfer syntax not accepted."""
    STATUS = "status"
    """A DIMSE response of failure."""
    FILE = "file"
    """Ours: it cannot be read, or is not DICOM."""


_PERMANENT = frozenset((Fault.NAME, Fault.TLS, Fault.CONTEXT, Fault.FILE))


class SendError(OxidicomError):
    """`str()` is for a person and holds no patient data.

    `fatal`: the association is over. `permanent`: it would be no better in a minute.
    """

    def __init__(
        self, fault: Fault, text: str, *, fatal: bool = True, permanent: bool = False
    ) -> None:
        super().__init__(text)
        self.fault = fault
        self.fatal = fatal
        self.permanent = permanent or fault in _PERMANENT


def connection_trouble(error: OSError | UnicodeError, where: str, timeout: float) -> SendError:
    match error:
        case socket.gaierror() | UnicodeError():  # the latter: it cannot be one (RFC 3490)
            return SendError(Fault.NAME, f"the name in {where} does not resolve")
        case ssl.SSLCertVerificationError():
            text = f"the certificate of {where} is not trusted: {verification_text(error)}"
            return SendError(Fault.TLS, text)
        case ssl.SSLError():
            reason = (error.reason or "no TLS there").lower().replace("_", " ")
            return SendError(Fault.TLS, f"no TLS connection with {where}: {reason}")
        case ConnectionRefusedError():
            return SendError(Fault.REFUSED, f"connection refused: nothing listens at {where}")
        case TimeoutError():
            text = f"{where} does not answer within {timeout:g} s: down, hung or behind a firewall"
            return SendError(Fault.TIMEOUT, text)
        case ConnectionError():
            return SendError(Fault.CLOSED, f"{where} closed the connection")
    words = os.strerror(error.errno) if error.errno else "network error"
    return SendError(Fault.UNREACHABLE, f"no way to {where}: {words}")
