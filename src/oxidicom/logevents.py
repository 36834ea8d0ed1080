"""Structured logging for every layer: one short message, with the details as named fields.

`oxidicom.telemetry.logs` formats and writes the records. The text of an exception may quote a data
set or a path that holds a patient's name; `describe` and `describe_client_error` leave that out.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import ssl
from typing import Any, Final

from oxidicom.errors import OxidicomError


def event(
    logger: logging.Logger,
    level: int,
    message: str,
    /,
    *,
    exc_info: BaseException | None = None,
    **fields: object,
) -> None:
    """Log `message` with `fields`, neither of which may hold patient data (decision 39).

    A field that is an exception is written as `describe` returns it.
    """
    if logger.isEnabledFor(level):
        logger.log(level, message, exc_info=exc_info, extra={"fields": fields}, stacklevel=2)


def trace_fields(traceparent: str | None) -> dict[str, Any]:
    """Return the log fields `trace_id` and `span_id` of a W3C `traceparent`; none if invalid."""
    match (traceparent or "").split("-"):
        case [_, trace_id, span_id, *_]:
            return {"trace_id": trace_id, "span_id": span_id}
    return {}  # an outbox entry may hold any text, so this need not be None


def describe(error: BaseException, *, phi: bool = False) -> str:
    """Describe `error` in one line without patient data: its type, and its text where that is safe.

    The texts of our own errors are safe. For a system error the text is that of its errno, without
    the file name. Any other error's text is included only with `phi`, which allows patient data.
    """
    name = type(error).__name__
    if phi or isinstance(error, OxidicomError):
        text = _text(error)
    elif isinstance(error, OSError):
        text = _system_text(error)
    else:
        text = ""
    return f"{name}: {text}" if text else name


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return ""


def _system_text(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return str(error.strerror or "")
    if type(error).__module__ == "ssl":  # errno is a number of OpenSSL's, not of the system
        refusal = isinstance(error, ssl.SSLCertVerificationError) and verification_text(error)
        texts = (getattr(error, "reason", None), refusal)
        return ", ".join(str(text) for text in texts if text)
    number = error.errno
    if number is None or number not in errno.errorcode:
        return ""
    return f"{errno.errorcode[number]} {os.strerror(number)}"


_STRICT_REFUSALS: Final = {
    85: "the certificate lacks the authority key identifier extension",
    86: "the authority's certificate lacks the subject key identifier extension",
    89: "the authority's certificate does not mark its basic constraints extension critical",
    92: "the authority's certificate lacks the key usage extension",
}
"""Texts for the error codes (x509_vfy.h) of OpenSSL's strict extension checks (RFC 5280)."""


def verification_text(error: ssl.SSLCertVerificationError) -> str:
    """Return why a certificate was not trusted; the text names an extension that is missing."""
    # An error that OpenSSL did not raise has neither attribute.
    text = _STRICT_REFUSALS.get(getattr(error, "verify_code", 0))
    return text if text is not None else str(getattr(error, "verify_message", ""))


_CLIENT_LIBRARIES: Final = frozenset(("aio_pika", "aiormq", "nats", "pamqp", "redis"))
"""Packages whose errors hold addresses and refusals of servers, but no patient data."""


def describe_client_error(error: BaseException) -> str:
    """Describe in one line an error of a connection to a server, or of the outbox.

    Unlike `describe`, this includes the texts of client libraries' errors and the full text of
    system errors: here they hold addresses and names of outbox files, no patient data.
    """
    kind = type(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{kind.__name__}: {verification_text(error)}"
    is_client_error = kind.__module__.partition(".")[0] in _CLIENT_LIBRARIES
    if not is_client_error and not isinstance(error, OSError):
        return describe(error)
    text = str(error)
    return f"{kind.__name__}: {text}" if text else kind.__name__
