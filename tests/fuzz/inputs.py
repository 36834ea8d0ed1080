"""How a target reads its input: a few bytes that choose, and a payload."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

HEAD = 5


def flags_cuts_payload(data: bytes) -> tuple[int, list[int], bytes]:
    """One byte of choices, two places of 16 bits to cut at, and the rest."""
    head, payload = data[:HEAD].ljust(HEAD, b"\0"), data[HEAD:]
    places = (int.from_bytes(head[at : at + 2], "little") for at in (1, 3))
    return head[0], sorted(place % (len(payload) + 1) for place in places), payload


def cut(payload: bytes, cuts: Iterable[int]) -> Iterator[bytes]:
    start = 0
    for end in (*cuts, len(payload)):
        yield payload[start:end]
        start = end


class Script:
    """Choices read one after the other; past the end they are all 0."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def byte(self) -> int:
        return (self.take(1) or b"\0")[0]

    def take(self, count: int) -> bytes:
        self._at += count
        return self._data[self._at - count : self._at]
