"""LONK, "light oxidicom notifications kit": subjects, payloads, and the rate limit of counts.

Subscribers such as CUBE derive the subject from AE title and UID by the same rules.
"""

from __future__ import annotations

import unicodedata
from enum import Enum
from functools import lru_cache
from typing import Final, NamedTuple

MAX_SUBJECT_BYTES: Final = 1024
"""Greatest length of a subject in bytes. NATS closes a connection whose protocol line exceeds 4 KiB
(decision 26)."""

MAX_ERROR_BYTES: Final = 8 * 1024
"""Greatest length of an error text in bytes; NATS itself refuses payloads over 1 MiB."""

MAX_COUNT: Final = 0xFFFF_FFFF
"""Greatest count that a message can contain: it has 4 bytes."""

UNKNOWN_TOKEN: Final = "UNKNOWN"
"""Token for a missing or empty AE title or UID: NATS does not allow empty tokens."""

_RESERVED_CHARACTERS: Final = frozenset(" .*>")


@lru_cache(maxsize=4096)
def subject(root: str, calling_ae_title: str, series_instance_uid: str | None) -> str:
    """Return the subject of a series, cut to MAX_SUBJECT_BYTES of UTF-8.

    `root` may consist of several tokens. UNKNOWN_TOKEN replaces a missing or empty UID. Results are
    cached, because all messages of a series have the same subject.
    """
    whole = f"{root}.{token(calling_ae_title)}.{token(series_instance_uid or '')}"
    return _cut(whole, MAX_SUBJECT_BYTES)


def done() -> bytes:
    """Return the payload of a done message: the series is complete."""
    return b"\x00"


def ndicom(count: int) -> bytes:
    """Return the payload of a progress message: `count` instances are received.

    A count above MAX_COUNT is sent as MAX_COUNT.
    """
    return b"\x01" + min(count, MAX_COUNT).to_bytes(4, "little")


def error(text: str) -> bytes:
    """Return the payload of an error message; its text is cut to MAX_ERROR_BYTES."""
    return b"\x02" + _cut(text, MAX_ERROR_BYTES).encode("utf-8", "replace")


def token(text: str) -> str:
    """Return the token of a subject for an AE title or a UID.

    NUL is removed, and `_` replaces other control characters and those that NATS reserves. An empty
    result becomes UNKNOWN_TOKEN.
    """
    safe = ("_" if _is_reserved(each) else each for each in text.replace("\0", ""))
    return "".join(safe) or UNKNOWN_TOKEN


def _is_reserved(character: str) -> bool:
    return character in _RESERVED_CHARACTERS or unicodedata.category(character) == "Cc"


class LonkKind(Enum):
    """The type of a received LONK message; UNKNOWN if the payload is malformed."""

    COUNT = "count"
    DONE = "done"
    ERROR = "error"
    UNKNOWN = "unknown"


class LonkMessage(NamedTuple):
    """A received LONK message, decoded."""

    calling_ae_title: str
    """The title from the subject, in which `_` may replace a character that NATS reserves."""
    series_instance_uid: str
    """The UID, or UNKNOWN_TOKEN if the sender did not know it."""
    kind: LonkKind
    ndicom: int | None = None
    """Number of received instances; None unless `kind` is COUNT."""
    error: str | None = None
    """Text of an error; None unless `kind` is ERROR."""


def decode(root: str, subject: str, payload: bytes) -> LonkMessage | None:
    """Return the message, or None unless `subject` consists of `root` and two tokens.

    A malformed payload gives a message of LonkKind.UNKNOWN.
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
    # A character that the limit would split is dropped.
    return text if len(encoded) <= limit else encoded[:limit].decode("utf-8", "ignore")


class Urgency(Enum):
    """The class of a message to send; the rate limit applies to `COUNT` only."""

    FIRST = "first count"
    COUNT = "count"
    ERROR = "error"
    FINAL = "final count"
    DONE = "done"


class ProgressLimiter:
    """Rate limit: for each subject, one `COUNT` within `interval` seconds, and all other messages.

    A count that comes too soon is dropped, not delayed: the next one replaces it. One float is kept
    for each subject until its `DONE`. If there are more than `max_subjects`, the oldest one is
    removed, after which one count may be sent too soon.
    """

    def __init__(self, interval: float, max_subjects: int = 65_536) -> None:
        self._interval = interval
        self._max_subjects = max_subjects
        self._sent_at: dict[str, float] = {}

    def admits(self, subject: str, urgency: Urgency, now: float) -> bool:
        """Return whether the message may be sent at the time `now`, in seconds."""
        if urgency is not Urgency.COUNT:
            return True
        sent_at = self._sent_at.get(subject)
        return sent_at is None or now - sent_at >= self._interval

    def sent(self, subject: str, urgency: Urgency, now: float) -> None:
        """Record that a message was sent. `now` is when sending ended, in seconds."""
        if urgency is Urgency.DONE:
            self._sent_at.pop(subject, None)
        elif urgency is Urgency.COUNT:
            self._sent_at.pop(subject, None)
            if len(self._sent_at) >= self._max_subjects:
                self._sent_at.pop(next(iter(self._sent_at)))
            self._sent_at[subject] = now

    def __len__(self) -> int:
        """Return the number of subjects for which a time is kept."""
        return len(self._sent_at)
