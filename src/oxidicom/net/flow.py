"""Flow control: an association stops reading when what it has not written yet would fill memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from oxidicom.buffers import BufferPool

MAX_KEPT_BUFFERS: Final = 4
"""Receive buffers that the writes of one association may keep: 1 MiB keeps a disk busy."""

MAX_PENDING_INSTANCES: Final = 16
"""Instances of one association that may await their outcome."""


class Reading(Protocol):
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class FlowControl:
    """Pauses and resumes the reading of one transport."""

    def __init__(self, transport: Reading, pool: BufferPool) -> None:
        self._transport = transport
        self._pool = pool
        self._kept = 0
        self._pending = 0
        self._peer_reads = True
        self._resting = False
        self._released = False
        self.paused = False

    @property
    def pending(self) -> int:
        """Instances that were begun and await their outcome."""
        return self._pending

    def release(self) -> None:
        """Resume reading for good: from here on all that arrives is dropped."""
        self._released = True
        if self.paused:
            self.paused = False
            self._transport.resume_reading()

    def detach(self) -> None:
        """Leave the transport, which is gone, alone; only count."""
        self._released = True
        self.paused = False

    @property
    def lagging(self) -> bool:
        """Paused because our writes lag, not because the peer does not read."""
        return self.paused and self._peer_reads

    def buffers_kept(self, holders: int) -> None:
        self._pool.keep(holders)
        self._kept += holders
        self._update()

    def buffer_released(self, buffer: bytearray) -> None:
        self._pool.release(buffer)
        self._kept -= 1
        self._update()

    def instance_pending(self) -> None:
        self._pending += 1
        if self._pending >= MAX_PENDING_INSTANCES:
            self._update()

    def instance_done(self) -> None:
        self._pending -= 1
        if self.paused:
            self._update()

    def peer_reads(self, yes: bool) -> None:
        """Note whether our responses leave, or wait for a peer that does not read."""
        self._peer_reads = yes
        self._update()

    def rest(self, defer: Callable[[Callable[[], None]], object]) -> None:
        """Pause while other connections have their turn; `defer` is like a loop's `call_soon`."""
        if not self._resting:
            self._resting = True
            self._update()
            defer(self._end_rest)

    def _end_rest(self) -> None:
        self._resting = False
        self._update()

    def _update(self) -> None:
        if self._released:
            return
        # Others may have exhausted the pool: an association pauses only while it keeps a buffer,
        # whose release resumes it.
        pause = (
            self._resting
            or not self._peer_reads
            or self._pending >= MAX_PENDING_INSTANCES
            or self._kept >= MAX_KEPT_BUFFERS
            or (self._kept > 0 and self._pool.exhausted)
        )
        if pause and not self.paused:
            self.paused = True
            self._transport.pause_reading()
        elif not pause and self.paused:
            self.paused = False
            self._transport.resume_reading()
