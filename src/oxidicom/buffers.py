"""Receive buffers: one that all connections share, and others for those whose writes are pending.

A connection whose bytes are written before its callback returns needs the shared buffer no further,
so that one small buffer, always in the cache, serves all connections.
"""

from __future__ import annotations

from typing import Final

RECEIVE_BUFFER_BYTES: Final = 256 * 1024
"""Bytes of a receive buffer. Half or twice as many change throughput by a few per cent; a buffer
that leaves the L2 cache costs a tenth and more."""


class BufferPool:
    """Hands out receive buffers; exhausted once writers keep `limit` bytes of them."""

    def __init__(self, limit: int, size: int = RECEIVE_BUFFER_BYTES) -> None:
        self.size = size
        self._max_kept = max(1, limit // size)
        self._free: list[bytearray] = []
        self._holders: dict[int, int] = {}
        self.current = bytearray(size)

    @property
    def exhausted(self) -> bool:
        """Writers keep as much as they may: connections that keep a buffer should pause."""
        return len(self._holders) >= self._max_kept

    def keep(self, holders: int) -> None:
        """Let `holders` writers keep `current`; the next receive gets another buffer."""
        self._holders[id(self.current)] = holders
        self.current = self._free.pop() if self._free else bytearray(self.size)

    def release(self, buffer: bytearray) -> None:
        """Take `buffer` back from one of its holders."""
        holders = self._holders[id(buffer)] - 1
        if holders:
            self._holders[id(buffer)] = holders
            return
        del self._holders[id(buffer)]
        # The memory of a burst is freed; a few buffers stay for the next one.
        if len(self._free) < 16:
            self._free.append(buffer)
