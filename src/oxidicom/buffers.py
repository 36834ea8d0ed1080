"""Receive buffers: one that all connections share, and others for those whose writes are pending.

Most connections write their bytes before their callback returns. Then the next connection can
receive into the same buffer, which stays in the processor's cache.
"""

from __future__ import annotations

from typing import Final

RECEIVE_BUFFER_BYTES: Final = 256 * 1024
"""Size of a receive buffer in bytes. Half or twice this size changes throughput by a few per cent;
a buffer that does not fit into the L2 cache reduces it by a tenth or more."""


class BufferPool:
    """The receive buffers of one process, of `size` bytes each.

    The pool is exhausted while writers keep as many buffers as fit into `limit` bytes, or one if
    none fits. `current` is the buffer for the next receive; an exhausted pool still provides it.
    """

    def __init__(self, limit: int, size: int = RECEIVE_BUFFER_BYTES) -> None:
        self.size = size
        self._max_kept = max(1, limit // size)
        self._free: list[bytearray] = []
        self._holders: dict[int, int] = {}
        self.current = bytearray(size)

    @property
    def exhausted(self) -> bool:
        """Whether writers keep the limit or more. Connections with kept buffers must pause then."""
        return len(self._holders) >= self._max_kept

    def keep(self, holders: int) -> None:
        """Let `holders` writers keep `current`, and replace it for the next receive.

        Each of them must call `release` once; `holders` is at least 1.
        """
        self._holders[id(self.current)] = holders
        self.current = self._free.pop() if self._free else bytearray(self.size)

    def release(self, buffer: bytearray) -> None:
        """Release `buffer` for one of its holders; after the last one it can be reused."""
        holders = self._holders[id(buffer)] - 1
        if holders:
            self._holders[id(buffer)] = holders
            return
        del self._holders[id(buffer)]
        # Keep a few buffers for the next burst, and free the memory of the others.
        if len(self._free) < 16:
            self._free.append(buffer)
