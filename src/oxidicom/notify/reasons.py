"""Why a broker or NATS is away, for a person."""

from __future__ import annotations


def reason_of(error: BaseException) -> str:
    """The error's type, and its text if it has one: what client libraries say holds addresses and
    their servers' refusals, no patient data."""
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
