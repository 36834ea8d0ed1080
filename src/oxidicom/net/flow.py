"""Flow control: reading pauses while too much received data of an association is unwritten."""

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
    """Pauses and resumes reading from one transport, which reads at first."""

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
        """Resume reading and never pause again: what arrives from now on is dropped."""
        self._released = True
        if self.paused:
            self.paused = False
            self._transport.resume_reading()

    def detach(self) -> None:
        """Stop using the transport, which is closed; instances and buffers are still counted."""
        self._released = True
        self.paused = False

    @property
    def lagging(self) -> bool:
        """Whether reading is paused, and not because the peer does not read our responses."""
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
        """Note whether the peer reads our responses; while it does not, reading is paused."""
        self._peer_reads = yes
        self._update()

    def rest(self, defer: Callable[[Callable[[], None]], object]) -> None:
        """Pause reading while other connections are served.

        `defer`, which is called like a loop's `call_soon`, determines when reading may resume.
        """
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
        # Other associations may have exhausted the pool. Pause only while this one keeps a buffer,
        # because only the release of a buffer resumes it.
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
