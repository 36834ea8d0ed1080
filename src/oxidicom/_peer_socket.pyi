from typing import Protocol, final

class Transport(Protocol):
    def write(self, data: bytes) -> None: ...
    def get_write_buffer_size(self) -> int: ...

@final
class PeerSocket:
    """System calls on the socket of one connection that bypass its transport.

    They send responses directly and set TCP_QUICKACK. `fd` is the descriptor of the socket; with
    -1, for TLS, everything is sent through the transport.
    """

    def __init__(self, transport: Transport, fd: int) -> None: ...
    def send(self, data: bytes) -> None:
        """Send through the transport, in one TCP segment if possible."""

    def acknowledge_soon(self) -> None:
        """Have the kernel acknowledge what has arrived at once (decision 19)."""

    def detach(self) -> None:
        """Stop using the descriptor, which is about to be closed."""
