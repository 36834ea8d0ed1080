"""How every layer logs: one short message, and facts as named fields.

Nothing here formats or writes; `oxidicom.telemetry.logs` does. What a foreign exception says of
itself may quote a data set or a path that holds a patient's name, hence `describe`.
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
    """Log `message` with `fields`; neither may hold patient data (decision 39).

    A field that is an exception is written as `describe` gives it.
    """
    if logger.isEnabledFor(level):
        logger.log(level, message, exc_info=exc_info, extra={"fields": fields}, stacklevel=2)


def trace_fields(traceparent: str | None) -> dict[str, Any]:
    """`trace_id` and `span_id` for the log, of a W3C `traceparent`; nothing where there is none."""
    match (traceparent or "").split("-"):
        case [_, trace_id, span_id, *_]:
            return {"trace_id": trace_id, "span_id": span_id}
    return {}  # what an entry of the outbox holds may be anybody's


def describe(error: BaseException, *, phi: bool = False) -> str:
    """One line on `error` without patient data: its type, and its text only where that is safe.

    Our own texts are. Of the system's errors the number speaks, never the file name. All others
    are named only, unless `phi` allows what they say.
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
    if type(error).__module__ == "ssl":  # its numbers are OpenSSL's, not the system's
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
"""OpenSSL's codes (x509_vfy.h) for what its strict checks require of extensions (RFC 5280)."""


def verification_text(error: ssl.SSLCertVerificationError) -> str:
    """Return why a certificate was not trusted; the text names an extension that is missing."""
    # An error that OpenSSL did not raise has neither attribute.
    text = _STRICT_REFUSALS.get(getattr(error, "verify_code", 0))
    return text if text is not None else str(getattr(error, "verify_message", ""))


_CLIENTS: Final = frozenset(("aio_pika", "aiormq", "nats", "pamqp", "redis"))
"""What these say holds addresses and their servers' refusals, no patient data."""


def reason_of(error: BaseException) -> str:
    """The error's type, and its text where that is known to hold no patient data: of the clients'
    own errors, and of the system's, which here concern lines and the outbox' files."""
    kind = type(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{kind.__name__}: {verification_text(error)}"
    if not isinstance(error, OSError) and kind.__module__.partition(".")[0] not in _CLIENTS:
        return describe(error)
    text = str(error)
    return f"{kind.__name__}: {text}" if text else kind.__name__
