"""The requestor of associations, for C-ECHO, C-STORE and C-FIND.

pynetdicom is not used, because its public interface offers no limits: it waits without limit for
the rest of a PDU, accepts a PDU of any length, polls each connection by select(), which fails for
descriptors above 1023, and keeps the process from exiting. It takes 1.3 ms of CPU time for an
instance of 20 KiB, this module 0.2 ms. A C-MOVE would need only what C-FIND uses here: one
identifier sent, and several responses received.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from io import BytesIO, FileIO
from pathlib import Path
from struct import Struct
from types import TracebackType
from typing import Final, NamedTuple, Self

from oxidicom.constants import (
    IMPLICIT_VR_LITTLE_ENDIAN,
    MAX_ASSOCIATE_RQ_LENGTH,
    MAX_COMMAND_LENGTH,
    STUDY_ROOT_FIND,
    VERIFICATION,
    CommandField,
    PduType,
)
from oxidicom.errors import PeerError
from oxidicom.scu.connection import UNLIMITED, Limits, PduConnection, Peer
from oxidicom.scu.errors import Fault, ScuError
from oxidicom.settings.parsing import printable
from oxidicom.wire.pdus import p_data
from oxidicom.wire.requestor import (
    RELEASE_RQ,
    AcceptedContext,
    Context,
    Response,
    decode_associate_ac,
    decode_p_data,
    decode_response,
    encode_associate_rq,
    encode_echo_request,
    encode_find_request,
    encode_store_request,
    is_pending,
    rejection_text,
    status_text,
)

_ANNOUNCED_PDU_BYTES: Final = 16 * 1024
"""The Maximum Length that we announce, in bytes. It is small because we receive only responses and
identifiers of queries."""

_MAX_PDU_BYTES: Final = 1024 * 1024
"""Greatest length of a P-DATA-TF PDU that is accepted, in bytes; greater than the Maximum Length
that we announce, because some peers ignore it."""

_MAX_FRAGMENT_BYTES: Final = 256 * 1024
"""Greatest number of bytes of a data set in one PDU, if the peer's Maximum Length allows as many.
It limits the memory of one association."""

_RELEASE_TIMEOUT_S: Final = 2.0
"""Seconds that the peer has to answer an A-RELEASE-RQ."""

_LAST: Final = 2
"""Bit of the message control header that marks the last fragment of a command set or a data set
(PS3.8 annex E.2)."""

_pdv_header = Struct(">BxI IBB")

VERIFICATION_CONTEXT: Final = Context(VERIFICATION, (IMPLICIT_VR_LITTLE_ENDIAN,))


class DataSet(NamedTuple):
    """A data set in a file. It is sent byte for byte as it is in the file."""

    path: Path
    offset: int
    """Position in the file of the data set's first byte, in bytes."""
    sop_class: str
    sop_instance: str
    transfer_syntax: str

    @property
    def context(self) -> Context:
        """The presentation context that it needs. It has only the transfer syntax of the file, so
        that the data set need not be converted."""
        return Context(self.sop_class, (self.transfer_syntax,))


class Match(NamedTuple):
    """One response to a C-FIND-RQ."""

    response: Response
    identifier: bytes | None
    """The identifier, encoded in the context's transfer syntax; None if the response has none."""


class Association:
    """One association, established by the constructor.

    As a context manager it releases the association at the end of the block, or aborts it after
    an exception. The constructor and the services raise ScuError; after one whose `fatal` is set
    the association can only be aborted.
    """

    def __init__(self, peer: Peer, contexts: Sequence[Context], limits: Limits = UNLIMITED) -> None:
        """Connect to the peer and associate, proposing `contexts` (1 to 128). Raises ScuError."""
        self._message_id = 0
        self._pdvs: deque[tuple[int, bytes]] = deque()
        began = time.monotonic()
        self._connection = PduConnection(peer, limits)
        connected = time.monotonic()
        self.connect_seconds = connected - began
        """Seconds that it took to connect, including the TLS handshake."""
        try:
            request = encode_associate_rq(peer.called, peer.calling, contexts, _ANNOUNCED_PDU_BYTES)
            self._accepted, self._max_length = self._negotiated(request, contexts)
        except BaseException:
            self.abort()
            raise
        self.associate_seconds = time.monotonic() - connected
        room = (self._max_length or _MAX_FRAGMENT_BYTES + 6) - 6
        self._fragment = min(max(room & ~1, 2), _MAX_FRAGMENT_BYTES)

    def _negotiated(
        self, request: bytes, contexts: Sequence[Context]
    ) -> tuple[dict[Context, AcceptedContext], int]:
        self._connection.send(request)
        self._connection.expect_answer()
        kind, body = self._connection.receive(MAX_ASSOCIATE_RQ_LENGTH)
        if kind == PduType.A_ASSOCIATE_RJ and len(body) == 4:
            text = f"association rejected: {rejection_text(*body[1:])}"
            raise ScuError(Fault.REJECTED, text, permanent=body[1] == 1)
        if kind != PduType.A_ASSOCIATE_AC:
            raise self._unexpected(kind, "an A-ASSOCIATE-RQ")
        try:
            acceptance = decode_associate_ac(body, contexts)
        except PeerError as error:
            raise self._connection.protocol_error(str(error)) from error
        return dict(acceptance.accepted), acceptance.max_pdu_length

    @property
    def tls_version(self) -> str | None:
        """Name of the TLS version, such as TLSv1.3; None without TLS."""
        return self._connection.tls_version

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

    # ---- services ------------------------------------------------------------------------

    def echo(self) -> None:
        """Send a C-ECHO-RQ and wait for its response (PS3.7 9.1.5).

        Raises ScuError; the error for a status other than success is not fatal.
        """
        context_id = self._accepted_context(VERIFICATION_CONTEXT).id
        command = encode_echo_request(self._next_message_id())
        self._connection.send(p_data(context_id, command, self._max_length))
        self._connection.expect_answer()
        response, _ = self._response(CommandField.C_ECHO_RSP)
        if response.status != 0:
            comment = f" ({printable(response.comment)})" if response.comment else ""
            text = f"it answers with status {status_text(response.status)}{comment}"
            raise ScuError(Fault.STATUS, text, fatal=False)

    def store(self, data_set: DataSet) -> tuple[Response, int]:
        """Send a C-STORE-RQ (PS3.7 9.1.1); return the response and the data set's size in bytes.

        A response of any status is returned. Raises ScuError; if it is not fatal, nothing was sent.
        """
        context_id = self._accepted_context(data_set.context).id
        command = encode_store_request(
            self._next_message_id(), data_set.sop_class, data_set.sop_instance
        )
        try:
            file = FileIO(data_set.path)
        except OSError as error:
            raise _file_error(error, fatal=False) from error
        with file:
            size = self._send_data_set(
                file, data_set.offset, context_id, p_data(context_id, command, self._max_length)
            )
        self._connection.expect_answer()
        response, _ = self._response(CommandField.C_STORE_RSP)
        return response, size

    def transfer_syntax(self, context: Context) -> str:
        """Return the transfer syntax that the peer chose for `context`.

        Raises a ScuError that is not fatal if the peer has not accepted the context.
        """
        return self._accepted_context(context).transfer_syntax

    def find(self, context: Context, identifier: bytes) -> Iterator[Match]:
        """Send a C-FIND-RQ (PS3.7 9.1.2) and yield every response, including the final one.

        `identifier` must be encoded in the context's transfer syntax. A caller that does not read
        all responses must abort the association. Raises ScuError.
        """
        context_id = self._accepted_context(context).id
        command = encode_find_request(self._next_message_id(), context.sop_class)
        before = p_data(context_id, command, self._max_length)
        self._send_data_set(BytesIO(identifier), 0, context_id, before)
        self._connection.expect_answer()
        while True:
            match = Match(*self._response(CommandField.C_FIND_RSP, with_data_set=True))
            yield match
            if not is_pending(match.response.status):
                return
            self._connection.expect_answer()

    def release(self) -> None:
        """Send an A-RELEASE-RQ, wait up to 2 seconds for any answer, and close the connection.

        Raises nothing, and does nothing if the connection is closed already.
        """
        connection = self._connection
        if not connection.is_open:
            return
        try:
            connection.send(RELEASE_RQ)
            connection.expect_answer(_RELEASE_TIMEOUT_S)
            connection.receive(_ANNOUNCED_PDU_BYTES)
        except ScuError:
            pass  # every response has been read, so a failed release loses nothing
        connection.close()

    def abort(self) -> None:
        """Send an A-ABORT without waiting, and close the connection. Raises nothing."""
        self._connection.abort()

    # ---- messages ------------------------------------------------------------------------

    def _send_data_set(
        self, file: FileIO | BytesIO, offset: int, context_id: int, before: bytes
    ) -> int:
        """Send `before`, encoded PDUs, and then `file` from `offset` to its end as a data set.

        A small data set is sent in one write with `before`. Returns the size of the data set in
        bytes. Raises ScuError, which is fatal if anything was sent.
        """
        length = self._fragment
        buffer = bytearray()
        sent = 0
        try:
            file.seek(offset)
            fragment = file.read(length)
        except OSError as error:
            raise _file_error(error, fatal=False) from error
        if not fragment:
            raise ScuError(Fault.FILE, "the file has no data set", fatal=False)
        buffer += before
        while fragment:
            try:
                following = file.read(length) if len(fragment) == length else b""
            except OSError as error:
                raise _file_error(error, fatal=True) from error
            size = len(fragment)
            control = 0 if following else _LAST
            buffer += _pdv_header.pack(PduType.P_DATA_TF, size + 6, size + 2, context_id, control)
            buffer += fragment
            if not following or len(buffer) >= _MAX_FRAGMENT_BYTES:
                self._connection.send(buffer)
                buffer.clear()
            sent += size
            fragment = following
        return sent

    def _response(
        self, field: CommandField, *, with_data_set: bool = False
    ) -> tuple[Response, bytes | None]:
        """Return the next response to the last request, and its data set or None.

        A data set is read only if `with_data_set` is True: some peers copy the Command Data Set
        Type of the request into responses that have none. Raises ScuError.
        """
        response = self._checked(self._fragments(command=True), field)
        if not (with_data_set and response.has_data_set):
            return response, None
        return response, self._fragments(command=False)

    def _fragments(self, *, command: bool) -> bytes:
        """Read and join the fragments of one command set or data set (PS3.8 annex E.2)."""
        joined = bytearray()
        while True:
            control, fragment = self._next_pdv()
            if bool(control & 1) is not command:
                expected = "a command set" if command else "a data set"
                raise self._connection.protocol_error(
                    f"it does not send {expected} where one is due"
                )
            joined += fragment
            if command and len(joined) > MAX_COMMAND_LENGTH:
                text = f"it sends a command set of more than {MAX_COMMAND_LENGTH} bytes"
                raise self._connection.protocol_error(text)
            if control & _LAST:
                return bytes(joined)

    def _next_pdv(self) -> tuple[int, bytes]:
        while not self._pdvs:
            kind, body = self._connection.receive(_MAX_PDU_BYTES)
            if kind != PduType.P_DATA_TF:
                raise self._unexpected(kind, "a request")
            try:
                self._pdvs.extend(decode_p_data(body))
            except PeerError as error:
                raise self._connection.protocol_error(str(error)) from error
        return self._pdvs.popleft()

    def _checked(self, command: bytes, field: CommandField) -> Response:
        try:
            response = decode_response(command)
        except PeerError as error:
            raise self._connection.protocol_error(str(error)) from error
        if (response.field, response.message_id) != (field, self._message_id):
            raise self._connection.protocol_error("it responds to a request that was not sent")
        return response

    def _unexpected(self, kind: int, request: str) -> ScuError:
        name = PduType(kind).name.replace("_", "-")
        return self._connection.protocol_error(f"it answers {request} with {name}")

    def _accepted_context(self, context: Context) -> AcceptedContext:
        accepted = self._accepted.get(context)
        if accepted is None:
            raise ScuError(Fault.CONTEXT, context_text(context), fatal=False)
        return accepted

    def _next_message_id(self) -> int:
        self._message_id = self._message_id % 0xFFFF + 1
        return self._message_id


_SERVICES: Final = {
    VERIFICATION: "verification (C-ECHO)",
    STUDY_ROOT_FIND: "the Study Root query (C-FIND)",
}


def context_text(context: Context) -> str:
    """Return an error text saying that the peer has not accepted `context`."""
    service = _SERVICES.get(context.sop_class)
    if service is not None:
        return f"{service} is not accepted"
    syntaxes = " or ".join(context.transfer_syntaxes)
    return f"not accepted: SOP class {context.sop_class} in {syntaxes}"


def _file_error(error: OSError, *, fatal: bool) -> ScuError:
    return ScuError(Fault.FILE, f"cannot be read: {error.strerror}", fatal=fatal)
