from oxidicom._pdu import Framer, FramerEvent
from oxidicom._peer_socket import PeerSocket
from oxidicom.buffers import BufferPool

class BufferedReceiver:
    """Receives bytes into the pool's buffer and frames them. A subclass handles the events.

    While a consumer that is attached to the framer takes all messages, the two calls that an event
    loop makes for each receive run no Python code.
    """

    pool: BufferPool
    framer: Framer
    """Framer of the connection. It must be set before the first receive."""

    peer_socket: PeerSocket
    """Socket of the connection. It must be set before the first receive."""

    handles_every_receive: bool
    """Whether `on_receive` is called even if the consumer took all bytes of a receive."""

    received: int
    """Bytes received on this connection."""

    long_turn_ns: int
    """Nanoseconds of work for this connection after which other connections have their turn."""

    worked_ns: int
    """Nanoseconds of work since other connections had their turn. A receive that emptied the socket
    in less than a quarter of a long turn subtracts half a long turn, not below 0."""

    rested_ns: int
    """Time at which other connections last had their turn, in ns of the monotonic clock."""

    window: int
    """Greatest number of bytes that the next receive may have, up to the size of a buffer."""

    def get_buffer(self, sizehint: int) -> bytearray | memoryview:
        """Return the memory for the next receive, `window` bytes. `sizehint` is ignored."""

    def buffer_updated(self, nbytes: int) -> None:
        """Frame the `nbytes` bytes that were received into that memory, and handle the events."""

    def on_receive(self, nbytes: int, framed: list[FramerEvent]) -> None:
        """Handle the events, possibly none, that the framer made of `nbytes` bytes in the buffer.

        Not called if the consumer took all of them and is offered the next message, unless
        `handles_every_receive` is True. The buffer is reused afterwards.
        """

    def on_long_turn(self, rare: bool) -> None:
        """Let other connections have their turn.

        `rare` is True if the previous call was more than a second ago.
        """

    def on_bug(self, error: BaseException) -> None:
        """Handle an exception that the framer or its consumer raised."""
