"""TLS between a connection and its transport, in memory: the same on every loop.

The loops' own TLS would hide handshakes from the listener's limits and time-outs, and cannot shut
down writing alone, so that last words are lost (decision 10). Records are decrypted straight into
the connection's receive buffer; one copy is made of what is still encrypted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable
from enum import Enum, auto
from typing import Any, Final, Protocol, cast

from oxidicom.logevents import describe, event, verification_text

logger = logging.getLogger("oxidicom.tls")

CHUNK: Final = 32 * 1024
"""Bytes handed to OpenSSL at once: its buffer grows with them and stays as large as it was, for
each connection; a record is at most half of it."""


HANDSHAKE_MEMORY: Final = 48 * 1024
"""Bytes that OpenSSL takes for one, as measured."""


class Upper(Protocol):
    """What asyncio.BufferedProtocol has of methods."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None: ...
    def connection_lost(self, exc: Exception | None) -> None: ...
    def eof_received(self) -> bool | None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...
    def get_buffer(self, sizehint: int, /) -> bytearray | memoryview: ...
    def buffer_updated(self, nbytes: int, /) -> None: ...


class State(Enum):
    FRESH = auto()
    """Nothing has come: whoever only connects costs nothing."""
    HANDSHAKE = auto()
    OPEN = auto()
    FINISHED = auto()
    """The peer has said that it sends no more."""
    DEAF = auto()
    """What comes is dropped until the peer closes."""


class TlsTransport(asyncio.Transport, asyncio.BufferedProtocol):
    """A protocol to the transport below, a transport to the protocol above.

    The one above is told of the connection before the handshake, so that limits and time-outs for
    those that have not associated hold for it. `context` gives the one for a connection that
    begins now, `cipher_buffer` is shared by all connections of a loop. `on_handshake` is called
    when the first byte has come, and may abort.
    """

    def __init__(
        self,
        upper: Upper,
        context: Callable[[], ssl.SSLContext],
        cipher_buffer: memoryview,
        on_handshake: Callable[[], None],
    ) -> None:
        super().__init__()
        self._upper = upper
        self._context = context
        self._cipher_buffer = cipher_buffer
        self._on_handshake = on_handshake
        self._state = State.FRESH
        self._paused = False
        self._answered = False
        self._buffer: memoryview | None = None
        self._filled = 0
        self._peer = ""

    # ---- protocol to what is below -------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._lower = cast(asyncio.Transport, transport)
        self._loop = asyncio.get_running_loop()
        address = transport.get_extra_info("peername")
        if isinstance(address, tuple):
            self._peer = address[0].removeprefix("::ffff:")
        self._socket = transport.get_extra_info("socket")
        self._upper.connection_made(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._state is State.HANDSHAKE:
            self._log_failure("connection ended")
        self._state = State.DEAF
        self._upper.connection_lost(exc)

    def eof_received(self) -> bool | None:
        """The peer should have said so within TLS; of DICOM nothing can be cut off unnoticed."""
        match self._state:
            case State.OPEN:
                self._go_on()
                return self._upper.eof_received() if self._state is State.OPEN else True
            case State.FINISHED:
                return True  # the one above knows, and closes when it has done
            case State.HANDSHAKE:
                self._log_failure("connection ended")
        self._state = State.DEAF
        return False

    def pause_writing(self) -> None:
        self._upper.pause_writing()

    def resume_writing(self) -> None:
        self._upper.resume_writing()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._cipher_buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._state in (State.DEAF, State.FINISHED):
            return
        if self._state is State.FRESH:
            self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            self._tls = self._context().wrap_bio(self._incoming, self._outgoing, server_side=True)
            self._state = State.HANDSHAKE
            self._on_handshake()
            if self._lower.is_closing():
                return
        self._answered = False
        try:
            self._take(self._cipher_buffer[:nbytes])
        except ssl.SSLError as error:
            self._fail(error)
        if self._state is State.OPEN and not self._answered:
            # As AssociationProtocol does it (decision 19), which here cannot know what is whole.
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    # ---- bytes in ------------------------------------------------------------------------

    def _take(self, encrypted: memoryview) -> None:
        """Raises SSLError."""
        for start in range(0, len(encrypted), CHUNK):
            self._incoming.write(encrypted[start : start + CHUNK])
            if self._state is State.HANDSHAKE:
                self._shake_hands()
            self._decrypt()
        self._deliver()

    def _decrypt(self) -> None:
        """Into the receive buffer, which is delivered when it is full; raises SSLError."""
        while self._state is State.OPEN and not self._paused and self._more_waits():
            if self._buffer is None:
                self._buffer, self._filled = memoryview(self._upper.get_buffer(-1)), 0
            rest = self._buffer[self._filled :]
            try:
                nbytes = cast(int, self._tls.read(len(rest), rest))
            except ssl.SSLWantReadError:
                self._send_pending()  # the answer to a peer that changes its keys
                return
            except ssl.SSLZeroReturnError:
                nbytes = 0
            self._filled += nbytes
            if not nbytes:
                self._deliver()
                self._finish()
            elif nbytes == len(rest):
                self._deliver()

    def _more_waits(self) -> bool:
        """Rather than read in vain: the exception costs as much as a record."""
        return bool(self._incoming.pending or self._tls.pending())

    def _deliver(self) -> None:
        if self._buffer is not None:
            self._buffer = None
            if self._filled:
                self._upper.buffer_updated(self._filled)

    def _finish(self) -> None:
        if self._state is State.OPEN:
            self._state = State.FINISHED
            if not self._upper.eof_received():
                self.close()

    def _go_on(self) -> None:
        """With what was left when the one above paused."""
        try:
            self._decrypt()
            self._deliver()
        except ssl.SSLError as error:
            self._fail(error)

    # ---- handshake and failures ----------------------------------------------------------

    def _shake_hands(self) -> None:
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
            self._state = State.OPEN
        self._send_pending()

    def _fail(self, error: ssl.SSLError) -> None:
        """Tell the peer why, as far as TLS does, and hear no more of it."""
        self._buffer = None
        self._send_pending()
        state, self._state = self._state, State.DEAF
        if state is not State.HANDSHAKE:
            event(logger, logging.DEBUG, "TLS connection broken", peer=self._peer, error=error)
            self._lower.close()
            return
        if isinstance(error, ssl.SSLCertVerificationError):
            reason = verification_text(error)
            event(
                logger, logging.WARNING, "peer certificate refused", peer=self._peer, reason=reason
            )
        else:
            self._log_failure(describe(error))
        # Closing with unread bytes would destroy the alert; the ARTIM timer sees to the rest.
        if not self._lower.is_closing():
            with contextlib.suppress(OSError):
                self._lower.write_eof()

    def _log_failure(self, reason: str) -> None:
        event(logger, logging.DEBUG, "TLS handshake failed", peer=self._peer, reason=reason)

    # ---- transport to what is above ------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._state not in (State.OPEN, State.FINISHED):
            return
        self._answered = True
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._tls.write(rest) :]
        except ssl.SSLError as error:
            self._fail(error)
        self._send_pending()

    def _send_pending(self) -> None:
        if self._outgoing.pending and not self._lower.is_closing():
            self._lower.write(self._outgoing.read())

    def _say_goodbye(self) -> None:
        """close_notify; whether one comes back is not waited for (RFC 8446 6.1)."""
        if self._state in (State.OPEN, State.FINISHED):
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()
            self._send_pending()
            self._state = State.DEAF

    def can_write_eof(self) -> bool:
        return self._lower.can_write_eof()

    def write_eof(self) -> None:
        self._say_goodbye()
        self._lower.write_eof()

    def close(self) -> None:
        self._say_goodbye()
        self._lower.close()

    def abort(self) -> None:
        if self._state is State.OPEN:
            self._state = State.DEAF
        self._lower.abort()

    def is_closing(self) -> bool:
        return self._lower.is_closing()

    def pause_reading(self) -> None:
        self._paused = True
        self._lower.pause_reading()

    def resume_reading(self) -> None:
        self._paused = False
        self._loop.call_soon(self._go_on)
        self._lower.resume_reading()

    def get_write_buffer_size(self) -> int:
        return self._lower.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "ssl_object":
            return self._tls
        return self._lower.get_extra_info(name, default)
