"""One association that we request, on a blocking socket."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from struct import Struct
from types import TracebackType
from typing import Final, NamedTuple, Self

from oxidicom.constants import (
    IMPLICIT_VR_LITTLE_ENDIAN,
    MAX_ASSOCIATE_RQ_LENGTH,
    MAX_COMMAND_LENGTH,
    VERIFICATION,
    AbortReason,
    CommandField,
    PduType,
)
from oxidicom.errors import PeerError
from oxidicom.scu.errors import Fault, SendError, connection_trouble
from oxidicom.wire.pdus import encode_abort, p_data
from oxidicom.wire.requestor import (
    Context,
    Response,
    abort_text,
    decode_associate_ac,
    decode_response,
    encode_associate_rq,
    encode_echo_request,
    encode_store_request,
    rejection_text,
    status_text,
)

_MAX_PDU_LENGTH: Final = 16 * 1024
"""Of what we receive: responses only."""

_LARGEST_FRAGMENT: Final = 256 * 1024
"""Bytes of a data set in one PDU, where the peer sets no lower limit: what one association
holds in memory."""

_PARTING: Final = 2.0
"""Seconds for the peer to answer A-RELEASE-RQ."""

_RELEASE_RQ: Final = bytes((PduType.A_RELEASE_RQ, 0, 0, 0, 0, 4, 0, 0, 0, 0))
_LAST: Final = 2

_pdu_header = Struct(">BxI")
_pdv_header = Struct(">BxI IBB")


class Peer(NamedTuple):
    """Whom to call, and how."""

    host: str
    port: int
    called: str
    """AE title."""
    calling: str
    timeout: float
    """Seconds for each answer, and to connect."""
    tls: ssl.SSLContext | None = None

    @property
    def where(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class DataSet(NamedTuple):
    """A data set within a file, as it lies there."""

    path: Path
    offset: int
    """Bytes before it."""
    sop_class: str
    sop_instance: str
    transfer_syntax: str

    @property
    def context(self) -> Context:
        return Context(self.sop_class, self.transfer_syntax)


ECHO: Final = (Context(VERIFICATION, IMPLICIT_VR_LITTLE_ENDIAN),)


class Association:
    """Established once made; as a context manager it is released, after an exception aborted.

    Every method raises SendError; after a fatal one the association is over.
    """

    def __init__(self, peer: Peer, contexts: Sequence[Context]) -> None:
        self._peer = peer
        self._message_id = 0
        self._received = bytearray()
        self._socket: socket.socket | ssl.SSLSocket | None = None
        try:
            began = time.monotonic()
            self._socket = self._connected()
            connected = time.monotonic()
            self.connect_seconds = connected - began
            """TLS included."""
            self._send(encode_associate_rq(peer.called, peer.calling, contexts, _MAX_PDU_LENGTH))
            kind, body = self._pdu(MAX_ASSOCIATE_RQ_LENGTH)
            if kind == PduType.A_ASSOCIATE_RJ and len(body) == 4:
                text = f"association rejected: {rejection_text(*body[1:])}"
                raise SendError(Fault.REJECTED, text, permanent=body[1] == 1)
            if kind != PduType.A_ASSOCIATE_AC:
                raise self._protocol_trouble("it answers a request with something else")
            try:
                acceptance = decode_associate_ac(body, contexts)
            except PeerError as error:
                raise self._protocol_trouble(str(error)) from error
        except BaseException:
            self.abort()
            raise
        self.associate_seconds = time.monotonic() - connected
        self._accepted = acceptance.accepted
        self._max_length = acceptance.max_pdu_length
        room = (acceptance.max_pdu_length or _LARGEST_FRAGMENT + 6) - 6
        self._fragment = min(max(room & ~1, 2), _LARGEST_FRAGMENT)

    @property
    def tls_version(self) -> str | None:
        """Such as TLSv1.3; None without TLS."""
        return self._socket.version() if isinstance(self._socket, ssl.SSLSocket) else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.release()
        else:
            self.abort()

    # ---- services ----------------------------------------------------------------------------

    def echo(self) -> None:
        """C-ECHO (PS3.7 9.1.5)."""
        context_id = self._context_id(ECHO[0])
        command = encode_echo_request(self._next_message_id())
        self._send(p_data(context_id, command, self._max_length))
        response = self._response(CommandField.C_ECHO_RSP)
        if response.status != 0:
            comment = f" ({response.comment})" if response.comment else ""
            text = f"it answers with status {status_text(response.status)}{comment}"
            raise SendError(Fault.STATUS, text, fatal=False)

    def store(self, data_set: DataSet) -> tuple[Response, int]:
        """C-STORE (PS3.7 9.1.1); the response, and how many bytes of data set went out.

        A SendError that is not fatal means that nothing was sent.
        """
        context_id = self._context_id(data_set.context)
        command = encode_store_request(
            self._next_message_id(), data_set.sop_class, data_set.sop_instance
        )
        try:
            file = FileIO(data_set.path)
        except OSError as error:
            raise _file_trouble(error, fatal=False) from error
        with file:
            size = self._send_data_set(
                file, data_set.offset, context_id, p_data(context_id, command, self._max_length)
            )
        return self._response(CommandField.C_STORE_RSP), size

    def _send_data_set(self, file: FileIO, offset: int, context_id: int, before: bytes) -> int:
        """One write for small ones, the command included. Returns bytes of data set."""
        length = self._fragment
        buffer = bytearray()
        sent = 0
        try:
            file.seek(offset)
            fragment = file.read(length)
        except OSError as error:
            raise _file_trouble(error, fatal=False) from error
        if not fragment:
            raise SendError(Fault.FILE, "the file has no data set", fatal=False)
        buffer += before
        while fragment:
            try:
                following = file.read(length) if len(fragment) == length else b""
            except OSError as error:
                raise _file_trouble(error, fatal=True) from error
            size = len(fragment)
            control = 0 if following else _LAST
            buffer += _pdv_header.pack(PduType.P_DATA_TF, size + 6, size + 2, context_id, control)
            buffer += fragment
            if not following or len(buffer) >= _LARGEST_FRAGMENT:
                self._send(buffer)
                buffer.clear()
            sent += size
            fragment = following
        return sent

    def release(self) -> None:
        """A-RELEASE, and what the peer makes of it does not matter any more."""
        if self._socket is None:
            return
        with suppress(OSError, SendError):
            self._socket.settimeout(min(_PARTING, self._peer.timeout))
            self._send(_RELEASE_RQ)
            self._pdu(_MAX_PDU_LENGTH)
        self._close()

    def abort(self) -> None:
        if self._socket is None:
            return
        with suppress(OSError):
            self._socket.settimeout(_PARTING)
            self._socket.sendall(encode_abort(0, 0))
        self._close()

    # ---- the line ----------------------------------------------------------------------------

    def _connected(self) -> socket.socket | ssl.SSLSocket:
        peer = self._peer
        try:
            plain = socket.create_connection((peer.host, peer.port), peer.timeout)
        except (OSError, UnicodeError) as error:
            raise connection_trouble(error, peer.where, peer.timeout) from error
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if peer.tls is None:
            return plain
        try:
            return peer.tls.wrap_socket(plain, server_hostname=peer.host)
        except OSError as error:
            plain.close()
            raise connection_trouble(error, peer.where, peer.timeout) from error

    def _send(self, data: bytes | bytearray) -> None:
        assert self._socket is not None, "the association is over"
        try:
            self._socket.sendall(data)
        except OSError as error:
            hung_up = not isinstance(error, TimeoutError)
            raise (hung_up and self._parting_words()) or self._lost(error) from error

    def _parting_words(self) -> SendError | None:
        """What a peer said before it hung up on us: an A-ABORT that still waits to be read."""
        try:
            self._pdu(_MAX_PDU_LENGTH)
        except SendError as trouble:
            return trouble if trouble.fault is Fault.ABORTED else None
        return None

    def _response(self, field: int) -> Response:
        command = bytearray()
        while True:
            kind, body = self._pdu(_MAX_PDU_LENGTH)
            if kind != PduType.P_DATA_TF:
                raise self._protocol_trouble("it answers a command with something else")
            position = 0
            while position < len(body):
                length = int.from_bytes(body[position : position + 4])
                if length < 2 or position + 4 + length > len(body):
                    raise self._protocol_trouble("a PDV does not fit into its PDU")
                control = body[position + 5]
                if not control & 1:
                    raise self._protocol_trouble("a response that has a data set")
                command += body[position + 6 : position + 4 + length]
                position += 4 + length
                if control & _LAST:
                    return self._checked(bytes(command), field)
            if len(command) > MAX_COMMAND_LENGTH:
                raise self._protocol_trouble("a command set without end")

    def _checked(self, command: bytes, field: int) -> Response:
        try:
            response = decode_response(command)
        except PeerError as error:
            raise self._protocol_trouble(str(error)) from error
        if (response.field, response.message_id) != (field, self._message_id):
            raise self._protocol_trouble("a response to something else")
        return response

    def _pdu(self, limit: int) -> tuple[int, bytes]:
        """Type and variable field; an A-ABORT and the end of the connection are raised."""
        kind, length = _pdu_header.unpack(self._read(6))
        if not PduType.A_ASSOCIATE_RQ <= kind <= PduType.A_ABORT or length > limit:
            raise self._protocol_trouble("what it sends is no DICOM")
        body = self._read(length)
        if kind == PduType.A_ABORT and length == 4:
            self._close()
            text = f"{self._peer.where} aborted the association, {abort_text(*body[2:])}"
            raise SendError(Fault.ABORTED, text)
        return kind, body

    def _read(self, size: int) -> bytes:
        assert self._socket is not None, "the association is over"
        received = self._received
        while len(received) < size:
            try:
                data = self._socket.recv(65536)
            except OSError as error:
                raise self._lost(error) from error
            if not data:
                self._close()
                raise SendError(Fault.CLOSED, f"{self._peer.where} closed the connection")
            received += data
        taken = bytes(received[:size])
        del received[:size]
        return taken

    def _lost(self, error: OSError) -> SendError:
        if isinstance(error, TimeoutError):
            self.abort()
        self._close()
        return connection_trouble(error, self._peer.where, self._peer.timeout)

    def _protocol_trouble(self, text: str) -> SendError:
        if self._socket is not None:
            with suppress(OSError):
                self._socket.sendall(encode_abort(2, AbortReason.UNEXPECTED_PDU))
        self._close()
        return SendError(
            Fault.PROTOCOL, f"{self._peer.where} does not speak DICOM as we do: {text}"
        )

    def _context_id(self, context: Context) -> int:
        context_id = self._accepted.get(context)
        if context_id is None:
            raise SendError(Fault.CONTEXT, context_text(context), fatal=False)
        return context_id

    def _next_message_id(self) -> int:
        self._message_id = self._message_id % 0xFFFF + 1
        return self._message_id

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def context_text(context: Context) -> str:
    if context.sop_class == VERIFICATION:
        return "verification (C-ECHO) is not accepted"
    return f"not accepted: SOP class {context.sop_class} in {context.transfer_syntax}"


def _file_trouble(error: OSError, *, fatal: bool) -> SendError:
    return SendError(Fault.FILE, f"cannot be read: {error.strerror}", fatal=fatal)
