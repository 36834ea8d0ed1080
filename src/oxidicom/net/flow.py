"""Flow control: reading pauses while too much received data of an association is unwritten."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from oxidicom.buffers import BufferPool

MAX_KEPT_BUFFERS: Final = 4
"""Number of receive buffers, kept by the writes of one association, at which reading pauses. Four
are 1 MiB, which keeps a disk busy."""

MAX_PENDING_INSTANCES: Final = 16
"""Number of instances of one association without an outcome at which reading pauses."""


class Reading(Protocol):
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class FlowControl:
    """Pauses and resumes reading from one transport, which must be reading at the start."""

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
        """Number of instances that have begun and have no outcome yet."""
        return self._pending

    def release(self) -> None:
        """Resume reading and never pause again, because the caller drops further bytes."""
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
        """Whether reading is paused although the peer reads our responses."""
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
        """Record whether the peer reads our responses; reading is paused while it does not."""
        self._peer_reads = yes
        self._update()

    def rest(self, defer: Callable[[Callable[[], None]], object]) -> None:
        """Pause reading while other connections are served.

        Reading may resume when `defer` calls the function that is passed to it.
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
