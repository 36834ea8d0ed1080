"""The states of an instance on the general path, and those of its part file."""

from __future__ import annotations

from collections.abc import Mapping, Set
from enum import IntEnum, auto
from typing import Final


class SinkState(IntEnum):
    """The progress of an instance. It changes on the loop's thread only."""

    RECEIVING = auto()
    """Fragments arrive and are written."""
    STORING = auto()
    """The last fragment has arrived; the outcome follows."""
    REFUSED = auto()
    """The instance will not be stored and its temporary file is removed. Fragments that arrive
    later are read, because the report contains the series UID, but not written."""
    QUARANTINING = auto()
    """The instance was refused after its last fragment; its file is moved to the quarantine."""
    DISCARDED = auto()
    """The association ended before the last fragment; no outcome follows."""


TRANSITIONS: Final[Mapping[SinkState, Set[SinkState]]] = {
    SinkState.RECEIVING: {SinkState.STORING, SinkState.REFUSED, SinkState.DISCARDED},
    SinkState.STORING: {SinkState.REFUSED, SinkState.QUARANTINING},
    SinkState.REFUSED: {SinkState.DISCARDED},
    SinkState.QUARANTINING: frozenset(),
    SinkState.DISCARDED: frozenset(),
}
"""The states that may follow each state."""


def follow(state: SinkState, next_state: SinkState) -> SinkState:
    """Return `next_state`. Raises AssertionError, which is a bug, if it may not follow `state`."""
    if next_state not in TRANSITIONS[state]:
        raise AssertionError(f"{next_state.name} after {state.name}")
    return next_state


class FileState(IntEnum):
    """The state of the part file. The jobs of its instance, which run one at a time, change it."""

    UNCHECKED = auto()
    """No job has run; the first one checks the free space."""
    WHOLE = auto()
    """Every job so far has succeeded."""
    BROKEN = auto()
    """A job is running or one has failed: bytes may be missing from the file."""
