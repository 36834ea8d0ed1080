"""Receive buffers: one that all connections share, and others for those whose writes are pending.

Most connections write their bytes before their callback returns. Then the next connection can
receive into the same buffer, which stays in the processor's cache.
"""

from __future__ import annotations

from typing import Final

RECEIVE_BUFFER_BYTES: Final = 256 * 1024
"""Size of a receive buffer in bytes. Half or twice this size changes throughput by a few per cent;
a buffer that does not fit into the L2 cache costs a tenth or more."""


class BufferPool:
    """The receive buffers of one process, of `size` bytes each.

    The pool is exhausted when writers keep `limit` bytes of buffers, but at least one buffer.
    """

    def __init__(self, limit: int, size: int = RECEIVE_BUFFER_BYTES) -> None:
        self.size = size
        self._max_kept = max(1, limit // size)
        self._free: list[bytearray] = []
        self._holders: dict[int, int] = {}
        self.current = bytearray(size)

    @property
    def exhausted(self) -> bool:
        """Whether writers keep the limit or more: connections that keep a buffer must pause."""
        return len(self._holders) >= self._max_kept

    def keep(self, holders: int) -> None:
        """Let `holders` writers keep `current`; the next receive gets another buffer."""
        self._holders[id(self.current)] = holders
        self.current = self._free.pop() if self._free else bytearray(self.size)

    def release(self, buffer: bytearray) -> None:
        """Note that one holder has released `buffer`; after the last one it can be reused."""
        holders = self._holders[id(buffer)] - 1
        if holders:
            self._holders[id(buffer)] = holders
            return
        del self._holders[id(buffer)]
        # Keep a few buffers for the next burst, and free the memory of the others.
        if len(self._free) < 16:
            self._free.append(buffer)
