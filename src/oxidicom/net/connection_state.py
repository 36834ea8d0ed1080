"""The states of a connection and the transitions between them (PS3.8 9.2)."""

from __future__ import annotations

from collections.abc import Mapping, Set
from enum import IntEnum, auto
from typing import Final


class ConnectionState(IntEnum):
    UNASSOCIATED = auto()
    """The peer has connected, but there is no association yet (Sta2)."""
    ESTABLISHED = auto()
    """Messages are received (Sta6)."""
    DRAINING = auto()
    """As ESTABLISHED, but we abort as soon as no instance is under way."""
    AWAITING_OUTCOMES = auto()
    """The peer has released or closed; the responses that are still due are sent first (Sta8)."""
    CLOSING = auto()
    """Our last PDU is sent; anything that arrives is dropped until the peer closes (Sta13)."""
    KILLED = auto()
    """We have aborted the transport before the association ended; nothing more is sent."""
    CLOSED = auto()
    """The transport is closed."""

    @property
    def is_associated(self) -> bool:
        """Whether there is an association that has not ended."""
        return self in _ASSOCIATED

    @property
    def is_over(self) -> bool:
        """Whether the association has ended, or none can begin on this connection."""
        return self in _ENDS


_ASSOCIATED: Final = frozenset(
    {
        ConnectionState.ESTABLISHED,
        ConnectionState.DRAINING,
        ConnectionState.AWAITING_OUTCOMES,
    }
)

_ENDS: Final = frozenset({ConnectionState.CLOSING, ConnectionState.KILLED, ConnectionState.CLOSED})

TRANSITIONS: Final[Mapping[ConnectionState, Set[ConnectionState]]] = {
    ConnectionState.UNASSOCIATED: {ConnectionState.ESTABLISHED} | _ENDS,
    ConnectionState.ESTABLISHED: {
        ConnectionState.DRAINING,
        ConnectionState.AWAITING_OUTCOMES,
    }
    | _ENDS,
    ConnectionState.DRAINING: {ConnectionState.AWAITING_OUTCOMES} | _ENDS,
    ConnectionState.AWAITING_OUTCOMES: _ENDS,
    ConnectionState.CLOSING: {ConnectionState.CLOSED},
    ConnectionState.KILLED: {ConnectionState.CLOSED},
    ConnectionState.CLOSED: frozenset(),
}
"""For each state, the states that may follow it."""


def follow(state: ConnectionState, next_state: ConnectionState) -> ConnectionState:
    """Return `next_state`. Raises AssertionError if it may not follow `state`, which is a bug."""
    if next_state not in TRANSITIONS[state]:
        raise AssertionError(f"{next_state.name} after {state.name}")
    return next_state
