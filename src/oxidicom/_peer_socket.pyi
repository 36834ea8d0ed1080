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
        """Send bytes through the transport, in one TCP segment if possible."""

    def acknowledge_soon(self) -> None:
        """Make the kernel acknowledge received bytes without delay (decision 19).

        Does nothing if `fd` is -1.
        """

    def detach(self) -> None:
        """Send everything through the transport from now on.

        This must be called before the descriptor is closed.
        """
