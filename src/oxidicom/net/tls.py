"""TLS between a connection and its transport, in memory, the same on every loop.

The TLS of the loops would hide handshakes from the listener's limits and timeouts, and cannot shut
down writing alone, so that our last PDU would be lost (decision 10). Records are decrypted straight
into the connection's receive buffer; encrypted bytes are copied once.
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

MAX_DECRYPTED_BYTES: Final = 32 * 1024
"""Greatest number of encrypted bytes passed to OpenSSL at once. OpenSSL's buffer of a connection
grows to the number that was passed and never shrinks. A record has at most about half as many."""


HANDSHAKE_BYTES: Final = 48 * 1024
"""Bytes that OpenSSL allocates for one handshake, as measured."""


class Upper(Protocol):
    """The methods of asyncio.BufferedProtocol."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None: ...
    def connection_lost(self, exc: Exception | None) -> None: ...
    def eof_received(self) -> bool | None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...
    def get_buffer(self, sizehint: int, /) -> bytearray | memoryview: ...
    def buffer_updated(self, nbytes: int, /) -> None: ...


class State(Enum):
    FRESH = auto()
    """The peer has sent no byte yet; TLS memory is allocated with the first one."""
    HANDSHAKE = auto()
    """The peer has sent its first byte; the handshake is not done yet."""
    OPEN = auto()
    """The handshake is done; data pass in both directions."""
    FINISHED = auto()
    """The peer has sent close_notify and sends nothing further."""
    DEAF = auto()
    """Anything that arrives is dropped until the peer closes."""


class TlsTransport(asyncio.Transport, asyncio.BufferedProtocol):
    """The protocol of the transport below, and the transport of the protocol above.

    The protocol above learns of the connection before the handshake, so that the limits and
    timeouts of connections that have not associated apply to it. `context` returns the context for
    a new connection. All connections of a loop share `cipher_buffer`. `on_handshake` is called when
    the first byte has arrived; it may abort this transport, and then no handshake takes place.
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
        """Accept an end without close_notify, because DICOM detects truncation by itself.

        Return whether the transport stays open for writing.
        """
        match self._state:
            case State.OPEN:
                self._continue_reading()
                return self._upper.eof_received() if self._state is State.OPEN else True
            case State.FINISHED:
                return True  # the protocol above has been told, and closes when it is done
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
            # Acknowledge soon, as AssociationProtocol does within a message (decision 19): here
            # message boundaries are unknown.
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    # ---- bytes in ------------------------------------------------------------------------

    def _take(self, encrypted: memoryview) -> None:
        """Process received TLS bytes, first for the handshake, then as data. Raises SSLError."""
        for start in range(0, len(encrypted), MAX_DECRYPTED_BYTES):
            self._incoming.write(encrypted[start : start + MAX_DECRYPTED_BYTES])
            if self._state is State.HANDSHAKE:
                self._shake_hands()
            self._decrypt()
        self._deliver()

    def _decrypt(self) -> None:
        """Decrypt into the receive buffer, and deliver it when it is full. Raises SSLError."""
        while self._state is State.OPEN and not self._paused and self._may_decrypt():
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

    def _may_decrypt(self) -> bool:
        """Return whether a read may find data. One that finds none costs as much as a record."""
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

    def _continue_reading(self) -> None:
        """Decrypt and deliver the bytes that arrived before the protocol above paused reading."""
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
        """Send the TLS alert, log the failure, and drop anything that arrives afterwards."""
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
        # Closing with unread bytes would destroy the alert; the ARTIM timer closes the connection.
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

    def _shut_down(self) -> None:
        """Send close_notify, without waiting for the peer's (RFC 8446 6.1)."""
        if self._state in (State.OPEN, State.FINISHED):
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()
            self._send_pending()
            self._state = State.DEAF

    def can_write_eof(self) -> bool:
        return self._lower.can_write_eof()

    def write_eof(self) -> None:
        self._shut_down()
        self._lower.write_eof()

    def close(self) -> None:
        self._shut_down()
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
        self._loop.call_soon(self._continue_reading)
        self._lower.resume_reading()

    def get_write_buffer_size(self) -> int:
        return self._lower.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "ssl_object":
            return self._tls
        return self._lower.get_extra_info(name, default)
