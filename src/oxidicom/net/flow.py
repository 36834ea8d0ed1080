"""When an association stops reading, and when it goes on: nobody's backlog may fill the memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from oxidicom.buffers import BufferPool

SHARE: Final = 4
"""Receive buffers that one association's writes may hold: 1 MiB keeps a disk busy."""

PENDING: Final = 16
"""Instances of one association whose outcome is not known yet."""


class Reading(Protocol):
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class FlowControl:
    """Pauses and resumes one transport's reading by what waits behind it."""

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
        """Instances begun whose outcome is not known yet."""
        return self._pending

    def release(self) -> None:
        """Read on whatever waits: from here on all that arrives is dropped."""
        self._released = True
        if self.paused:
            self.paused = False
            self._transport.resume_reading()

    def detach(self) -> None:
        """The transport is gone: only the books are kept."""
        self._released = True
        self.paused = False

    @property
    def lagging(self) -> bool:
        """Paused for what we have not done yet, not for a peer that does not read."""
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
        if self._pending >= PENDING:
            self._update()

    def instance_done(self) -> None:
        self._pending -= 1
        if self.paused:
            self._update()

    def peer_reads(self, yes: bool) -> None:
        """Whether our responses leave, or wait for a peer that does not read."""
        self._peer_reads = yes
        self._update()

    def rest(self, defer: Callable[[Callable[[], None]], object]) -> None:
        """Read on when others have had their turn; `defer` is as a loop's `call_soon`."""
        if not self._resting:
            self._resting = True
            self._update()
            defer(self._rested)

    def _rested(self) -> None:
        self._resting = False
        self._update()

    def _update(self) -> None:
        if self._released:
            return
        # The pool may be exhausted by others: only who holds a buffer waits, and is woken by it.
        pause = (
            self._resting
            or not self._peer_reads
            or self._pending >= PENDING
            or self._kept >= SHARE
            or (self._kept > 0 and self._pool.exhausted)
        )
        if pause and not self.paused:
            self.paused = True
            self._transport.pause_reading()
        elif not pause and self.paused:
            self.paused = False
            self._transport.resume_reading()
