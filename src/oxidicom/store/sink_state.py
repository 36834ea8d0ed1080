"""The states of an instance on the general path and of its part file."""

from __future__ import annotations

from collections.abc import Mapping, Set
from enum import IntEnum, auto
from typing import Final


class SinkState(IntEnum):
    """How far an instance has come, as the loop's thread knows it."""

    RECEIVING = auto()
    """Fragments are fed and written."""
    STORING = auto()
    """The last fragment was fed; the outcome follows."""
    REFUSED = auto()
    """The instance will not be stored and its temporary file is removed. Before the last fragment
    the rest is read, for the series UID in the report, and not written."""
    QUARANTINING = auto()
    """The instance was refused whole; its temporary file goes to the quarantine."""
    DISCARDED = auto()
    """The association has ended; no outcome follows."""


TRANSITIONS: Final[Mapping[SinkState, Set[SinkState]]] = {
    SinkState.RECEIVING: {SinkState.STORING, SinkState.REFUSED, SinkState.DISCARDED},
    SinkState.STORING: {SinkState.REFUSED, SinkState.QUARANTINING},
    SinkState.REFUSED: {SinkState.DISCARDED},
    SinkState.QUARANTINING: frozenset(),
    SinkState.DISCARDED: frozenset(),
}
"""States that may follow each state."""


def follow(state: SinkState, next_state: SinkState) -> SinkState:
    """Return `next_state`; raises AssertionError, a bug of ours, where it may not follow."""
    if next_state not in TRANSITIONS[state]:
        raise AssertionError(f"{next_state.name} after {state.name}")
    return next_state


class FileState(IntEnum):
    """What is known of the part file, where its jobs run."""

    UNCHECKED = auto()
    """No job has run: the free space is to be checked."""
    WHOLE = auto()
    """Everything was written so far."""
    BROKEN = auto()
    """A job runs, or one has failed: the file may have a hole."""
