from typing import Any

from oxidicom._pdu import FramerEvent
from oxidicom.buffers import BufferPool

class BufferedReceiver:
    pool: BufferPool
    consumer: Any
    """A `_pdu.Consumer`: takes what is usual of what comes next; None while nothing can be."""
    received: int
    """Bytes, of the whole connection."""

    long_turn_ns: int
    """After so much work others have their turn."""

    worked_ns: int
    """Since others had it; a short receive that left nothing to read takes half a turn off."""

    rested_ns: int
    """When others had it last, by the monotonic clock."""

    window: int
    """Bytes that the next receive may bring; more than a buffer's size is as good as it."""

    def get_buffer(self, sizehint: int) -> bytearray | memoryview: ...
    def buffer_updated(self, nbytes: int) -> None: ...
    def on_receive(self, nbytes: int, found: list[FramerEvent] | None) -> None:
        """Handle `nbytes` new bytes in the pool's buffer.

        `found` holds the framer's events that the consumer did not take; None without a consumer.
        """

    def on_long_turn(self, rare: bool) -> None:
        """Others have waited for longer than they should; `rare`: not in the last second before."""

    def on_bug(self, error: BaseException) -> None:
        """A consumer broke."""
