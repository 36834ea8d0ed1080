"""One connection to a DICOM peer: PDUs out and in, over TCP or TLS, within time and size limits.

Blocking sockets: a count query, `oxidicom echo` and `oxidicom send` run on threads of their own.
"""

from __future__ import annotations

import math
import socket
import ssl
import time
from contextlib import suppress
from struct import Struct
from typing import Final, NamedTuple

from oxidicom.constants import AbortReason, PduType
from oxidicom.scu.errors import Fault, ScuError, connection_error
from oxidicom.wire.pdus import encode_abort
from oxidicom.wire.requestor import abort_text

_RECEIVE_BYTES: Final = 65536
"""Bytes asked of the socket in one call."""

_TIMEOUT_SLACK_S: Final = 0.01
"""A socket's timeout is not set again for a smaller difference: that is a system call."""

_pdu_header = Struct(">BxI")


class Peer(NamedTuple):
    """The address of a DICOM peer, and how to call it."""

    host: str
    port: int
    called: str
    """Its AE title."""
    calling: str
    """Our AE title."""
    timeout: float
    """Seconds to connect, and seconds for each answer."""
    tls: ssl.SSLContext | None = None
    """None connects without TLS."""

    @property
    def where(self) -> str:
        """The host and port as one text; an IPv6 address is in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Limits(NamedTuple):
    """Bounds on one whole association; the peer cannot exceed them."""

    seconds: float = math.inf
    """From the first connection attempt to the last response. Only the look-up of the host's name
    may take longer: nothing interrupts the resolver."""
    receive_bytes: float = math.inf


UNLIMITED: Final = Limits()
"""For associations that a person watches and can interrupt."""


class PduConnection:
    """One open connection. Every method but `abort` and `close` raises ScuError.

    After such an error, which is always fatal, the connection is closed.
    """

    def __init__(self, peer: Peer, limits: Limits) -> None:
        """Connect. Raises ScuError."""
        self._peer = peer
        self._limits = limits
        self._end = time.monotonic() + limits.seconds
        self._answer_deadline = self._deadline()
        self._received = bytearray()
        self._received_total = 0
        self._socket_timeout = math.inf
        self._socket: socket.socket | ssl.SSLSocket | None = None
        try:
            self._socket = self._connected()
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if peer.tls is not None:
                self._limit(self._socket, self._deadline())
                self._socket = peer.tls.wrap_socket(self._socket, server_hostname=peer.host)
        except (OSError, UnicodeError) as error:
            raise self._failed(error) from error
        except BaseException:
            self.close()
            raise

    def _connected(self) -> socket.socket:
        """Try the addresses of the host one after the other; raises the last one's OSError."""
        peer = self._peer
        failure: OSError | None = None
        for family, kind, protocol, _, address in socket.getaddrinfo(
            peer.host, peer.port, type=socket.SOCK_STREAM
        ):
            connection = None
            try:
                connection = socket.socket(family, kind, protocol)
                self._socket_timeout = math.inf
                self._limit(connection, self._deadline())
                connection.connect(address)
                return connection
            except OSError as error:
                failure = error
            except BaseException:
                if connection is not None:
                    connection.close()
                raise
            if connection is not None:
                connection.close()
        raise failure or OSError("the host has no address")

    @property
    def is_open(self) -> bool:
        """Whether the connection has neither been closed nor failed."""
        return self._socket is not None

    @property
    def tls_version(self) -> str | None:
        """The protocol's name, such as TLSv1.3; None without TLS."""
        return self._socket.version() if isinstance(self._socket, ssl.SSLSocket) else None

    def send(self, data: bytes | bytearray) -> None:
        """Send all of `data`, in one system call where the peer reads fast enough."""
        assert self._socket is not None, "the association is over"
        try:
            self._limit(self._socket, self._deadline())
            self._socket.sendall(data)
        except OSError as error:
            # A peer may have sent an A-ABORT with its reason before it closed the connection.
            abort = None if isinstance(error, TimeoutError) else self._waiting_abort()
            raise abort or self._failed(error) from error

    def expect_answer(self, within: float | None = None) -> None:
        """Start the time of one answer: `Peer.timeout`, or `within` seconds, for all its PDUs."""
        self._answer_deadline = self._deadline(within)

    def receive(self, limit: int) -> tuple[int, bytes]:
        """Return the type and the variable field of the next PDU, of at most `limit` bytes.

        An A-ABORT and the end of the connection are raised as ScuError.
        """
        kind, length = _pdu_header.unpack(self._read(6))
        if not PduType.A_ASSOCIATE_RQ <= kind <= PduType.A_ABORT:
            raise self.protocol_error("what it sends is not DICOM")
        if length > limit:
            raise self.protocol_error(f"it sends a PDU of {length} bytes, more than {limit}")
        body = self._read(length)
        if kind == PduType.A_ABORT and length == 4:
            self.close()
            text = f"{self._peer.where} aborted the association, {abort_text(*body[2:])}"
            raise ScuError(Fault.ABORTED, text)
        return kind, body

    def protocol_error(self, text: str) -> ScuError:
        """Abort the association because of what the peer sent; return the error to raise."""
        self.abort(encode_abort(2, AbortReason.UNEXPECTED_PDU))
        return ScuError(
            Fault.PROTOCOL, f"{self._peer.where} does not follow the DICOM protocol: {text}"
        )

    def abort(self, pdu: bytes = encode_abort(0, 0)) -> None:
        """Send an A-ABORT, unless that would have to wait, and close the connection."""
        if self._socket is not None:
            with suppress(OSError):
                self._socket.settimeout(0)
                self._socket.send(pdu)
        self.close()

    def close(self) -> None:
        """Close the socket; nothing is sent, and a second call does nothing."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    # ---- reading and time ----------------------------------------------------------------

    def _read(self, size: int) -> bytes:
        assert self._socket is not None, "the association is over"
        received = self._received
        while len(received) < size:
            try:
                self._limit(self._socket, self._answer_deadline)
                data = self._socket.recv(_RECEIVE_BYTES)
            except OSError as error:
                raise self._failed(error) from error
            if not data:
                self.close()
                raise ScuError(Fault.CLOSED, f"{self._peer.where} closed the connection")
            received += data
            self._received_total += len(data)
            if self._received_total > self._limits.receive_bytes:
                raise self.protocol_error(f"it sends more than {self._limits.receive_bytes} bytes")
        taken = bytes(received[:size])
        del received[:size]
        return taken

    def _waiting_abort(self) -> ScuError | None:
        self.expect_answer()
        try:
            self.receive(4)
        except ScuError as error:
            return error if error.fault is Fault.ABORTED else None
        return None

    def _deadline(self, within: float | None = None) -> float:
        within = self._peer.timeout if within is None else within
        return min(time.monotonic() + within, self._end)

    def _limit(self, connection: socket.socket, deadline: float) -> None:
        """Have the next operation on the socket end at `deadline`. Raises TimeoutError after it."""
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        if abs(remaining - self._socket_timeout) > _TIMEOUT_SLACK_S:
            connection.settimeout(remaining)
            self._socket_timeout = remaining

    def _failed(self, error: OSError | UnicodeError) -> ScuError:
        if isinstance(error, TimeoutError):
            self.abort()
            if time.monotonic() >= self._end:
                text = f"gave no complete answer within {self._limits.seconds:g} s"
                return ScuError(Fault.TIMEOUT, f"{self._peer.where} {text}")
        self.close()
        return connection_error(error, self._peer.where, self._peer.timeout)
