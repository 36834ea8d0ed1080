"""Receive buffers: one that every connection shares, and fresh ones for those that keep theirs.

A connection whose bytes are written before its callback returns leaves the shared buffer as it
found it, so that one small buffer, always in the cache, serves them all.
"""

from __future__ import annotations

from typing import Final

BUFFER_SIZE: Final = 256 * 1024
"""Bytes. Half or twice of it makes a few per cent of the throughput; what leaves the L2 cache costs
a tenth and more."""


class BufferPool:
    """`limit` bytes may be kept by writers at once before those who keep are asked to pause."""

    def __init__(self, limit: int, size: int = BUFFER_SIZE) -> None:
        self.size = size
        self._most = max(1, limit // size)
        self._free: list[bytearray] = []
        self._holders: dict[int, int] = {}
        self.current = bytearray(size)

    @property
    def kept(self) -> int:
        """Buffers that somebody holds."""
        return len(self._holders)

    @property
    def exhausted(self) -> bool:
        return len(self._holders) >= self._most

    def keep(self, holders: int) -> None:
        """So many hold `current` beyond its callback; others get another buffer."""
        self._holders[id(self.current)] = holders
        self.current = self._free.pop() if self._free else bytearray(self.size)

    def release(self, buffer: bytearray) -> None:
        """One holder of `buffer` has done with it."""
        holders = self._holders[id(buffer)] - 1
        if holders:
            self._holders[id(buffer)] = holders
            return
        del self._holders[id(buffer)]
        # A burst's memory goes back; a few are kept warm.
        if len(self._free) < 16:
            self._free.append(buffer)
