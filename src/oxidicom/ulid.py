"""ULIDs, the identifiers of associations. Their text sorts by the millisecond of creation
(https://github.com/ulid/spec)."""

from __future__ import annotations

import os
import time
import uuid
from typing import Final

ULID_LENGTH: Final = 26
"""Length of a ULID in characters."""

_CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_TIME_BITS: Final = 48
_RANDOM_BITS: Final = 80


def new_ulid(wall_ns: int | None = None) -> str:
    """Return a new ULID for the time `wall_ns` in nanoseconds since the epoch, by default now.

    ULIDs of the same millisecond sort at random. Raises ValueError for a time before 1970 or after
    the year 10889, which does not fit into 48 bits.
    """
    milliseconds = (time.time_ns() if wall_ns is None else wall_ns) // 1_000_000
    if not 0 <= milliseconds < 1 << _TIME_BITS:
        raise ValueError("a ULID holds 48 bits of milliseconds since the epoch")
    random = int.from_bytes(os.urandom(_RANDOM_BITS // 8), "big")
    value = milliseconds << _RANDOM_BITS | random
    return "".join(_CROCKFORD[value >> 5 * place & 31] for place in reversed(range(ULID_LENGTH)))


def uuid_of(ulid: str) -> str:
    """Return the 128 bits of a ULID as the text of a UUID; raises ValueError for other text."""
    if len(ulid) != ULID_LENGTH:
        raise ValueError("a ULID has 26 characters")
    value = 0
    for character in ulid:
        value = value << 5 | _CROCKFORD.index(character)
    return str(uuid.UUID(int=value))
