"""A connection to a DICOM peer that sends and receives PDUs over TCP or TLS, with time and size
limits.

Its socket is blocking, so that it must not be used on the thread of an event loop.
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
"""Greatest number of bytes to read from the socket in one call."""

_TIMEOUT_SLACK_S: Final = 0.01
"""Seconds by which a socket's timeout may differ from the remaining time. It is set again only for
a greater difference, because setting it is a system call."""

_pdu_header = Struct(">BxI")


class Peer(NamedTuple):
    """The address of a DICOM peer, and what is needed to associate with it."""

    host: str
    port: int
    called: str
    """AE title of the peer."""
    calling: str
    """Our AE title."""
    timeout: float
    """Time limit in seconds: for connecting to each address of the host, for the TLS handshake, for
    each `send` and for each answer."""
    tls: ssl.SSLContext | None = None
    """The TLS context; None for a connection without TLS."""

    @property
    def where(self) -> str:
        """The text host:port, with an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Limits(NamedTuple):
    """Bounds on one whole association; the peer cannot exceed them."""

    seconds: float = math.inf
    """Seconds from the first connection attempt to the last response. Only the resolution of the
    host's name may take longer, because it cannot be interrupted."""
    receive_bytes: float = math.inf
    """Greatest number of bytes received, in all PDUs together."""


UNLIMITED: Final = Limits()
"""No limits, for an association that a person watches and can interrupt."""


class PduConnection:
    """One connection, opened by the constructor.

    The constructor, `send` and `receive` raise ScuError. Such an error is always fatal, and the
    connection is closed when it is raised.
    """

    def __init__(self, peer: Peer, limits: Limits) -> None:
        """Connect, and make the TLS handshake if `peer.tls` is set. Raises ScuError."""
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
        """Return a socket that is connected to the first address of the host that accepts.

        Raises OSError, that of the last address, or UnicodeError for an invalid host name.
        """
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
        """Whether the connection is open: neither closed by us nor failed."""
        return self._socket is not None

    @property
    def tls_version(self) -> str | None:
        """Name of the TLS version, such as TLSv1.3; None without TLS."""
        return self._socket.version() if isinstance(self._socket, ssl.SSLSocket) else None

    def send(self, data: bytes | bytearray) -> None:
        """Send all of `data`. Raises ScuError."""
        assert self._socket is not None, "the association is over"
        try:
            self._limit(self._socket, self._deadline())
            self._socket.sendall(data)
        except OSError as error:
            # A peer may have sent an A-ABORT with its reason before it closed the connection.
            abort = None if isinstance(error, TimeoutError) else self._waiting_abort()
            raise abort or self._failed(error) from error

    def expect_answer(self, within: float | None = None) -> None:
        """Start the time limit of one answer with all its PDUs.

        It is `within` seconds, or `Peer.timeout` if `within` is None.
        """
        self._answer_deadline = self._deadline(within)

    def receive(self, limit: int) -> tuple[int, bytes]:
        """Return the type and the variable field of the next PDU.

        Raises ScuError for an A-ABORT, the end of the connection, an exceeded limit, and a variable
        field of more than `limit` bytes.
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
        """Abort the association for a violation of the protocol; return the error to raise."""
        self.abort(encode_abort(2, AbortReason.UNEXPECTED_PDU))
        return ScuError(
            Fault.PROTOCOL, f"{self._peer.where} does not follow the DICOM protocol: {text}"
        )

    def abort(self, pdu: bytes = encode_abort(0, 0)) -> None:
        """Send an A-ABORT if the socket accepts it at once, and close the connection."""
        if self._socket is not None:
            with suppress(OSError):
                self._socket.settimeout(0)
                self._socket.send(pdu)
        self.close()

    def close(self) -> None:
        """Close the socket without an A-ABORT. A second call does nothing."""
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
        """Make the next operation on the socket time out at `deadline` (monotonic clock).

        Raises TimeoutError if that has passed already.
        """
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
