"""LONK, "light oxidicom notifications kit": subjects, payloads, and which counts are worth sending.

Subscribers (CUBE) make the same subject out of the same AE title and UID, so its rules are theirs.
"""

from __future__ import annotations

import unicodedata
from enum import Enum
from functools import lru_cache
from typing import Final, NamedTuple

MAX_SUBJECT_BYTES: Final = 1024
"""NATS closes a connection whose protocol line exceeds 4 KiB (decision 26)."""

MAX_ERROR_BYTES: Final = 8 * 1024
"""A text for a person; NATS itself refuses payloads over 1 MiB."""

MAX_COUNT: Final = 0xFFFF_FFFF

UNKNOWN: Final = "UNKNOWN"
"""In place of a part that is missing or empty: NATS has no empty tokens."""

_RESERVED: Final = frozenset(" .*>")


@lru_cache(maxsize=4096)
def subject(root: str, calling_ae_title: str, series_instance_uid: str | None) -> str:
    """`root` is the operator's, and may itself have several tokens. At most 1 KiB of UTF-8.

    Cached: a series has one subject and many messages.
    """
    whole = f"{root}.{token(calling_ae_title)}.{token(series_instance_uid or '')}"
    return _cut(whole, MAX_SUBJECT_BYTES)


def done() -> bytes:
    return b"\x00"


def ndicom(count: int) -> bytes:
    return b"\x01" + min(count, MAX_COUNT).to_bytes(4, "little")


def error(text: str) -> bytes:
    return b"\x02" + _cut(text, MAX_ERROR_BYTES).encode("utf-8", "replace")


def token(text: str) -> str:
    """One part of a subject, made of an AE title or a UID."""
    safe = (
        "_" if character in _RESERVED or unicodedata.category(character) == "Cc" else character
        for character in text.replace("\0", "")
    )
    return "".join(safe) or UNKNOWN


class LonkKind(Enum):
    COUNT = "count"
    DONE = "done"
    ERROR = "error"
    UNKNOWN = "unknown"


class LonkMessage(NamedTuple):
    """A message as a subscriber reads it."""

    calling_ae_title: str
    """As far as the subject tells: in a title `_` may stand for what NATS reserves."""
    series_instance_uid: str
    kind: LonkKind
    ndicom: int | None = None
    error: str | None = None


def decode(root: str, subject: str, payload: bytes) -> LonkMessage | None:
    """None for a subject that is not of this form; a payload that nobody knows is `UNKNOWN`."""
    parts = subject.removeprefix(f"{root}.").split(".")
    if len(parts) != 2 or not subject.startswith(f"{root}."):
        return None
    title, uid = parts[0], parts[1].replace("_", ".") if parts[1] != UNKNOWN else UNKNOWN
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
    # A character cut in two is dropped.
    return text if len(encoded) <= limit else encoded[:limit].decode("utf-8", "ignore")


class Urgency(Enum):
    """Why a message is sent; only `COUNT` may be dropped for its rate."""

    FIRST = "first count"
    COUNT = "count"
    ERROR = "error"
    FINAL = "final count"
    DONE = "done"


class ProgressLimiter:
    """At most one `COUNT` a subject and `interval` (seconds); others always pass.

    A count that comes too early is dropped, not delayed: the next one is as good. State is one
    float for each subject with counts, and goes with the subject's `DONE`; `max_subjects` bounds it
    even if that never comes, at the price of one count too many.
    """

    def __init__(self, interval: float, max_subjects: int = 65_536) -> None:
        self._interval = interval
        self._max_subjects = max_subjects
        self._sent_at: dict[str, float] = {}

    def admits(self, subject: str, urgency: Urgency, now: float) -> bool:
        if urgency is not Urgency.COUNT:
            return True
        sent_at = self._sent_at.get(subject)
        return sent_at is None or now - sent_at >= self._interval

    def sent(self, subject: str, urgency: Urgency, now: float) -> None:
        """`now` is when sending ended."""
        if urgency is Urgency.DONE:
            self._sent_at.pop(subject, None)
        elif urgency is Urgency.COUNT:
            self._sent_at.pop(subject, None)
            if len(self._sent_at) >= self._max_subjects:
                self._sent_at.pop(next(iter(self._sent_at)))
            self._sent_at[subject] = now

    def __len__(self) -> int:
        """Subjects with state."""
        return len(self._sent_at)
