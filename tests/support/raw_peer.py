"""A scripted Storage SCU: every octet of what it sends is the script's choice.

The encoders are the tests' own reading of PS3.8 9.3 and PS3.7 annex E and import nothing of the
package, so that an error shared by both sides cannot hide. DCMTK's storescp accepts what they
make (`test_dcmtk.py`).
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import NamedTuple, Self

from tests.support.timing import WAIT_LIMIT_S

RQ, AC, RJ, P_DATA_TF, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
VERIFICATION = "1.2.840.10008.1.1"
CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"

C_STORE_RQ, C_STORE_RSP = 0x0001, 0x8001
C_ECHO_RQ, C_ECHO_RSP = 0x0030, 0x8030
C_CANCEL_RQ = 0x0FFF

Element = tuple[int, bytes]
"""A command element: its number in group 0000, and its value."""


class Pdu(NamedTuple):
    """`body` is what follows the six octets of the header."""

    type: int
    body: bytes


class Context(NamedTuple):
    """A proposed presentation context (PS3.8 9.3.2.2)."""

    id: int
    abstract_syntax: str
    transfer_syntaxes: Sequence[str]


class Response(NamedTuple):
    """A DIMSE response: values of group 0000 by element number, and the context it came on."""

    context_id: int
    elements: Mapping[int, bytes]

    def number(self, element: int) -> int:
        return int(struct.unpack("<H", self.elements[element])[0])

    def text(self, element: int) -> str:
        return self.elements[element].rstrip(b"\0 ").decode("ascii")

    @property
    def field(self) -> int:
        return self.number(0x0100)

    @property
    def message_id(self) -> int:
        return self.number(0x0120)

    @property
    def status(self) -> int:
        return self.number(0x0900)


# ---- PDUs (PS3.8 9.3) ----------------------------------------------------------------------


def pdu(pdu_type: int, body: bytes, length: int | None = None) -> bytes:
    """`length`: a false value for the length field."""
    return struct.pack(">BxI", pdu_type, len(body) if length is None else length) + body


def item(item_type: int, body: bytes) -> bytes:
    return struct.pack(">BxH", item_type, len(body)) + body


def context_item(context: Context) -> bytes:
    body = struct.pack(">B3x", context.id) + item(0x30, context.abstract_syntax.encode())
    for transfer_syntax in context.transfer_syntaxes:
        body += item(0x40, transfer_syntax.encode())
    return item(0x20, body)


def associate_rq(
    contexts: Iterable[Context],
    *,
    calling: bytes = b"RAWPEER",
    called: bytes = b"ChRIS",
    version: int = 1,
    application_context: str = APPLICATION_CONTEXT,
    max_length: int | None = 16384,
    user_items: bytes = b"",
    other_items: bytes = b"",
) -> bytes:
    """`max_length` None leaves the Maximum Length item out; `user_items` follow it."""
    user = b"" if max_length is None else item(0x51, struct.pack(">I", max_length))
    user += item(0x52, b"1.2.826.0.1.3680043.8.498.7") + user_items
    body = struct.pack(">H2x16s16s32x", version, called.ljust(16), calling.ljust(16))
    body += item(0x10, application_context.encode())
    body += b"".join(map(context_item, contexts)) + other_items + item(0x50, user)
    return pdu(RQ, body)


def pdv(context_id: int, fragment: bytes, *, command: bool, last: bool) -> bytes:
    header = (command << 0) | (last << 1)
    return struct.pack(">IBB", len(fragment) + 2, context_id, header) + fragment


def p_data(*pdvs: bytes) -> bytes:
    return pdu(P_DATA_TF, b"".join(pdvs))


def fragments(
    context_id: int, message: bytes, *, command: bool, size: int | Sequence[int]
) -> Iterator[bytes]:
    """PDVs of `message`, cut every `size` bytes, or into the given sizes and then the rest."""
    sizes = [size] * (len(message) // size) if isinstance(size, int) else list(size)
    start = 0
    for length in sizes:
        if isinstance(size, int) and start + length >= len(message):
            break
        yield pdv(context_id, message[start : start + length], command=command, last=False)
        start += length
    yield pdv(context_id, message[start:], command=command, last=True)


def release_rq() -> bytes:
    return pdu(RELEASE_RQ, bytes(4))


def abort(source: int = 0, reason: int = 0) -> bytes:
    return pdu(ABORT, struct.pack(">2xBB", source, reason))


# ---- commands (PS3.7 annex E; always Implicit VR Little Endian) ------------------------------


def number(value: int) -> bytes:
    return struct.pack("<H", value)


def uid(value: str) -> bytes:
    return value.encode() + b"\0" * (len(value) % 2)


def command_set(*elements: Element, group_length: bool = True) -> bytes:
    body = b"".join(
        struct.pack("<HHI", 0, element, len(value)) + value for element, value in elements
    )
    return (struct.pack("<HHII", 0, 0, 4, len(body)) if group_length else b"") + body


def parse_command_set(data: bytes) -> dict[int, bytes]:
    elements: dict[int, bytes] = {}
    position = 0
    while position < len(data):
        group, element, length = struct.unpack_from("<HHI", data, position)
        assert group == 0, f"group {group:04x} in a command set"
        elements[element] = data[position + 8 : position + 8 + length]
        position += 8 + length
    assert position == len(data)
    return elements


def c_echo_rq(message_id: int = 1) -> bytes:
    return command_set(
        (0x0002, uid(VERIFICATION)),
        (0x0100, number(C_ECHO_RQ)),
        (0x0110, number(message_id)),
        (0x0800, number(0x0101)),
    )


def c_store_rq(
    sop_class: str | None,
    sop_instance: str | None,
    message_id: int | None = 1,
    *,
    data_set: bool = True,
    extra: Sequence[Element] = (),
) -> bytes:
    elements: list[Element] = []
    if sop_class is not None:
        elements.append((0x0002, uid(sop_class)))
    elements.append((0x0100, number(C_STORE_RQ)))
    if message_id is not None:
        elements.append((0x0110, number(message_id)))
    elements += [(0x0700, number(0)), (0x0800, number(1 if data_set else 0x0101))]
    if sop_instance is not None:
        elements.append((0x1000, uid(sop_instance)))
    return command_set(*elements, *extra)


def store_message(
    context_id: int, command: bytes, data_set: bytes, *, max_length: int = 16384
) -> bytes:
    """One C-STORE as most senders frame it: the command in a PDU of its own, one PDV a PDU."""
    size = (max_length or 1 << 20) - 6
    pdvs = [
        *fragments(context_id, command, command=True, size=size),
        *fragments(context_id, data_set, command=False, size=size),
    ]
    return b"".join(map(p_data, pdvs))


# ---- the connection -------------------------------------------------------------------------


class RawPeer:
    """A blocking connection. Every wait ends after `timeout` seconds with TimeoutError."""

    def __init__(
        self,
        port: int,
        *,
        host: str = "127.0.0.1",
        source: str | None = None,
        timeout: float = WAIT_LIMIT_S,
        nodelay: bool = True,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`source`: the address to come from; all of 127.0.0.0/8 is this machine."""
        ours = None if source is None else (source, 0)
        self.socket = socket.create_connection((host, port), timeout, ours)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, nodelay)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        self.peer_max_length = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def send(self, data: bytes | bytearray | memoryview) -> None:
        self.socket.sendall(data)

    def send_cut(self, data: bytes, size: int = 1) -> None:
        """Segments of `size` octets each, as far as the loopback keeps them apart."""
        for start in range(0, len(data), size):
            self.socket.sendall(data[start : start + size])

    def finish_sending(self) -> None:
        """Half close; the receiver sees EOF. Not with TLS, which Python closes both ways only."""
        if not isinstance(self.socket, ssl.SSLSocket):
            self.socket.shutdown(socket.SHUT_WR)

    def receive(self) -> Pdu:
        """The next PDU; EOFError if the receiver closed instead."""
        pdu_type, length = struct.unpack(">BxI", self._receive_exactly(6))
        return Pdu(pdu_type, self._receive_exactly(length))

    def _receive_exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            received = self.socket.recv(count - len(data))
            if not received:
                raise EOFError(f"closed after {len(data)} of {count} octets")
            data += received
        return bytes(data)

    def receive_nothing(self, seconds: float) -> None:
        """Assert that neither octet nor EOF comes for that long."""
        timeout = self.socket.gettimeout()
        self.socket.settimeout(seconds)
        try:
            received = self.socket.recv(1)
        except TimeoutError:
            return
        finally:
            self.socket.settimeout(timeout)
        raise AssertionError(f"something came: {received!r}")

    def expect(self, pdu_type: int) -> bytes:
        received = self.receive()
        assert received.type == pdu_type, received
        return received.body

    def expect_abort(self, source: int, reason: int) -> None:
        body = self.expect(ABORT)
        assert (body[2], body[3]) == (source, reason), body.hex()
        self.expect_close()

    def expect_reject(self, result: int, source: int, reason: int) -> None:
        body = self.expect(RJ)
        assert (body[1], body[2], body[3]) == (result, source, reason), body.hex()
        self.expect_close()

    def expect_close(self) -> None:
        """EOF and not a reset: a reset may have destroyed an answer (decision 10)."""
        received = self.socket.recv(64)
        assert received == b"", received

    def associate(
        self,
        contexts: Iterable[Context] | None = None,
        *,
        calling: bytes = b"RAWPEER",
        called: bytes = b"ChRIS",
        max_length: int | None = 16384,
        user_items: bytes = b"",
        other_items: bytes = b"",
    ) -> bytes:
        """The body of the A-ASSOCIATE-AC."""
        if contexts is None:
            contexts = [
                Context(1, CT_IMAGE_STORAGE, [EXPLICIT]),
                Context(3, VERIFICATION, [IMPLICIT]),
            ]
        self.send(
            associate_rq(
                contexts,
                calling=calling,
                called=called,
                max_length=max_length,
                user_items=user_items,
                other_items=other_items,
            )
        )
        body = self.expect(AC)
        for kind, value in items(user_information(body)):
            if kind == 0x51:
                self.peer_max_length = struct.unpack(">I", value)[0]
        return body

    def response(self) -> Response:
        """A DIMSE response: one PDV in one PDU."""
        body = self.expect(P_DATA_TF)
        length, context_id, header = struct.unpack_from(">IBB", body)
        assert length == len(body) - 4, "one PDV in the PDU"
        assert header == 0b11, "command, last fragment"
        return Response(context_id, parse_command_set(body[6:]))

    def response_in_fragments(self, max_length: int) -> Response:
        """The same from a receiver that keeps to a small Maximum Length (PS3.8 D.1)."""
        command = b""
        while True:
            body = self.expect(P_DATA_TF)
            assert len(body) <= max_length
            length, context_id, header = struct.unpack_from(">IBB", body)
            assert length == len(body) - 4
            command += body[6:]
            if header & 0b10:
                return Response(context_id, parse_command_set(command))

    def echo(self, message_id: int = 1, context_id: int = 3) -> Response:
        self.send(p_data(pdv(context_id, c_echo_rq(message_id), command=True, last=True)))
        response = self.response()
        assert response.context_id == context_id
        assert (response.field, response.status) == (C_ECHO_RSP, 0)
        return response

    def store(
        self,
        sop_instance: str,
        data_set: bytes,
        *,
        sop_class: str = CT_IMAGE_STORAGE,
        message_id: int = 1,
        context_id: int = 1,
    ) -> Response:
        """One C-STORE; its response, whatever the status."""
        command = c_store_rq(sop_class, sop_instance, message_id)
        self.send(store_message(context_id, command, data_set, max_length=self.peer_max_length))
        response = self.response()
        assert response.context_id == context_id
        assert response.message_id == message_id
        assert response.field == C_STORE_RSP
        return response

    def release(self) -> None:
        self.send(release_rq())
        self.expect(RELEASE_RP)
        self.finish_sending()
        self.expect_close()


# ---- reading an A-ASSOCIATE-AC (PS3.8 9.3.3) --------------------------------------------------


def items(data: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position < len(data):
        kind, length = struct.unpack_from(">BxH", data, position)
        yield kind, data[position + 4 : position + 4 + length]
        position += 4 + length
    assert position == len(data)


def associate_ac_items(body: bytes) -> list[tuple[int, bytes]]:
    return list(items(body[68:]))


def user_information(body: bytes) -> bytes:
    (found,) = (value for kind, value in associate_ac_items(body) if kind == 0x50)
    return found


def context_results(body: bytes) -> dict[int, tuple[int, str]]:
    """Context id → result (PS3.8 table 9-18), transfer syntax."""
    results: dict[int, tuple[int, str]] = {}
    for kind, value in associate_ac_items(body):
        if kind == 0x21:
            ((_, transfer_syntax),) = items(value[4:])
            results[value[0]] = (value[2], transfer_syntax.decode())
    return results
