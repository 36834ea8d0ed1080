"""Why a broker or NATS is away, for a person."""

from __future__ import annotations

from typing import Final

from oxidicom.logevents import describe

_CLIENTS: Final = frozenset(("aio_pika", "aiormq", "nats", "pamqp", "redis"))
"""What these say holds addresses and their servers' refusals, no patient data."""


def reason_of(error: BaseException) -> str:
    """The error's type, and its text where that is known to hold no patient data: of the clients'
    own errors, and of the system's, which here concern lines and the outbox' files."""
    kind = type(error)
    if not isinstance(error, OSError) and kind.__module__.partition(".")[0] not in _CLIENTS:
        return describe(error)
    text = str(error)
    return f"{kind.__name__}: {text}" if text else kind.__name__
