"""Association identifiers: ULIDs, whose text sorts by the millisecond of their making
(https://github.com/ulid/spec)."""

from __future__ import annotations

import os
import time
import uuid
from typing import Final

LENGTH: Final = 26
"""Characters."""

_CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_TIME_BITS: Final = 48
_RANDOM_BITS: Final = 80


def new_ulid(wall_ns: int | None = None) -> str:
    """A fresh ULID of 26 characters, of now or of `wall_ns` (nanoseconds since the epoch).

    Two of one millisecond sort at random. Raises ValueError for a time before 1970 or after
    the year 10889, which 48 bits do not hold.
    """
    milliseconds = (time.time_ns() if wall_ns is None else wall_ns) // 1_000_000
    if not 0 <= milliseconds < 1 << _TIME_BITS:
        raise ValueError("a ULID holds 48 bits of milliseconds since the epoch")
    random = int.from_bytes(os.urandom(_RANDOM_BITS // 8), "big")
    value = milliseconds << _RANDOM_BITS | random
    return "".join(_CROCKFORD[value >> 5 * place & 31] for place in reversed(range(LENGTH)))


def as_uuid(ulid: str) -> str:
    """The same 128 bits in the form of a UUID. Raises ValueError for what is no ULID."""
    value = 0
    for character in ulid:
        value = value << 5 | _CROCKFORD.index(character)
    if len(ulid) != LENGTH:
        raise ValueError("a ULID has 26 characters")
    return str(uuid.UUID(int=value))
