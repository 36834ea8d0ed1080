"""LONK, "light oxidicom notifications kit": subjects, payloads, and the rate limit of counts.

Subscribers (CUBE) derive the same subject from AE title and UID, so both sides share its rules.
"""

from __future__ import annotations

import unicodedata
from enum import Enum
from functools import lru_cache
from typing import Final, NamedTuple

MAX_SUBJECT_BYTES: Final = 1024
"""NATS closes a connection whose protocol line exceeds 4 KiB (decision 26)."""

MAX_ERROR_BYTES: Final = 8 * 1024
"""Bytes of an error text; NATS itself refuses payloads over 1 MiB."""

MAX_COUNT: Final = 0xFFFF_FFFF

UNKNOWN_TOKEN: Final = "UNKNOWN"
"""Replaces a part of a subject that is missing or empty: NATS has no empty tokens."""

_RESERVED_CHARACTERS: Final = frozenset(" .*>")


@lru_cache(maxsize=4096)
def subject(root: str, calling_ae_title: str, series_instance_uid: str | None) -> str:
    """Return the subject of a series, at most MAX_SUBJECT_BYTES of UTF-8.

    `root` may consist of several tokens. Results are cached: a series has one subject and many
    messages.
    """
    whole = f"{root}.{token(calling_ae_title)}.{token(series_instance_uid or '')}"
    return _cut(whole, MAX_SUBJECT_BYTES)


def done() -> bytes:
    """Return the payload of a series that is complete."""
    return b"\x00"


def ndicom(count: int) -> bytes:
    """Return the payload of a number of received instances."""
    return b"\x01" + min(count, MAX_COUNT).to_bytes(4, "little")


def error(text: str) -> bytes:
    """Return the payload of an error; the text is cut to MAX_ERROR_BYTES."""
    return b"\x02" + _cut(text, MAX_ERROR_BYTES).encode("utf-8", "replace")


def token(text: str) -> str:
    """Return the token of a subject for an AE title or a UID."""
    safe = ("_" if _is_reserved(each) else each for each in text.replace("\0", ""))
    return "".join(safe) or UNKNOWN_TOKEN


def _is_reserved(character: str) -> bool:
    return character in _RESERVED_CHARACTERS or unicodedata.category(character) == "Cc"


class LonkKind(Enum):
    """What a LONK message tells."""

    COUNT = "count"
    DONE = "done"
    ERROR = "error"
    UNKNOWN = "unknown"


class LonkMessage(NamedTuple):
    """A message as a subscriber decodes it."""

    calling_ae_title: str
    """The title from the subject, where `_` may replace a character that NATS reserves."""
    series_instance_uid: str
    kind: LonkKind
    ndicom: int | None = None
    error: str | None = None


def decode(root: str, subject: str, payload: bytes) -> LonkMessage | None:
    """Return the message, or None for a subject of another form.

    A payload of no known form gives LonkKind.UNKNOWN.
    """
    parts = subject.removeprefix(f"{root}.").split(".")
    if len(parts) != 2 or not subject.startswith(f"{root}."):
        return None
    title, uid = parts
    if uid != UNKNOWN_TOKEN:
        uid = uid.replace("_", ".")
    match payload[:1]:
        case b"\x00" if len(payload) == 1:
            return LonkMessage(title, uid, LonkKind.DONE)
        case b"\x01" if len(payload) == 5:
            return LonkMessage(
                title, uid, LonkKind.COUNT, ndicom=int.from_bytes(payload[1:], "little")
            )
        case b"\x02":
            return LonkMessage(
                title, uid, LonkKind.ERROR, error=payload[1:].decode("utf-8", "replace")
            )
    return LonkMessage(title, uid, LonkKind.UNKNOWN)


def _cut(text: str, limit: int) -> str:
    encoded = text.encode("utf-8", "replace")
    # An incomplete character at the end is dropped.
    return text if len(encoded) <= limit else encoded[:limit].decode("utf-8", "ignore")


class Urgency(Enum):
    """Why a message is sent; only `COUNT` is subject to the rate limit."""

    FIRST = "first count"
    COUNT = "count"
    ERROR = "error"
    FINAL = "final count"
    DONE = "done"


class ProgressLimiter:
    """Admits one `COUNT` for each subject and `interval` (seconds), and all other messages.

    A count that comes too soon is dropped, not delayed: the next one replaces it. State is one
    float for each subject, removed with its `DONE`; `max_subjects` bounds it if `DONE` never comes,
    at the cost of one count too many.
    """

    def __init__(self, interval: float, max_subjects: int = 65_536) -> None:
        self._interval = interval
        self._max_subjects = max_subjects
        self._sent_at: dict[str, float] = {}

    def admits(self, subject: str, urgency: Urgency, now: float) -> bool:
        """Return whether the message may be sent at `now`, in seconds."""
        if urgency is not Urgency.COUNT:
            return True
        sent_at = self._sent_at.get(subject)
        return sent_at is None or now - sent_at >= self._interval

    def sent(self, subject: str, urgency: Urgency, now: float) -> None:
        """Note that a message was sent; `now` is the time at which sending ended, in seconds."""
        if urgency is Urgency.DONE:
            self._sent_at.pop(subject, None)
        elif urgency is Urgency.COUNT:
            self._sent_at.pop(subject, None)
            if len(self._sent_at) >= self._max_subjects:
                self._sent_at.pop(next(iter(self._sent_at)))
            self._sent_at[subject] = now

    def __len__(self) -> int:
        """Return the number of subjects with state."""
        return len(self._sent_at)
