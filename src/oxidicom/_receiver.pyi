from oxidicom._pdu import Framer, FramerEvent
from oxidicom._peer_socket import PeerSocket
from oxidicom.buffers import BufferPool

class BufferedReceiver:
    """Receives into the pool's buffer and frames what has come; a subclass handles the events.

    Neither of the two calls that a loop makes for a receive leads into Python while a consumer,
    attached to the framer, takes all that comes.
    """

    pool: BufferPool
    framer: Framer
    """To be set before the first receive, like `peer_socket`."""

    peer_socket: PeerSocket
    handles_every_receive: bool
    """`on_receive` is called even if the consumer took all."""

    received: int
    """Bytes received on this connection."""

    long_turn_ns: int
    """Nanoseconds of work after which other connections have their turn."""

    worked_ns: int
    """Nanoseconds of work since other connections had their turn. A short receive that left nothing
    to read subtracts half a turn, not below 0."""

    rested_ns: int
    """Time at which other connections last had their turn, in ns of the monotonic clock."""

    window: int
    """Greatest number of bytes of the next receive; at most the size of a buffer."""

    def get_buffer(self, sizehint: int) -> bytearray | memoryview: ...
    def buffer_updated(self, nbytes: int) -> None: ...
    def on_receive(self, nbytes: int, framed: list[FramerEvent]) -> None:
        """Handle what the framer has made of `nbytes` new bytes in the pool's buffer.

        Called unless a consumer took all and awaits more; the buffer is reused afterwards.
        """

    def on_long_turn(self, rare: bool) -> None:
        """Let other connections be served; `rare`: the previous such call is over a second ago."""

    def on_bug(self, error: BaseException) -> None:
        """Handle an exception of the framer or its consumer."""
