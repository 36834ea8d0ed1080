"""The PDUs and command sets that the requestor of an association writes and reads.

The formats are those of PS3.8 9.3 and of PS3.7 9.3.1, 9.3.2 and 9.3.5. The sockets are in `scu`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from struct import Struct
from typing import Final, NamedTuple

from oxidicom.constants import (
    APPLICATION_CONTEXT,
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    VERIFICATION,
    AbortReason,
    CommandField,
    PduType,
)
from oxidicom.errors import PeerError

MAX_CONTEXTS: Final = 128
"""Greatest number of presentation contexts in a request: ids are the odd numbers of a byte."""

RELEASE_RQ: Final = bytes((PduType.A_RELEASE_RQ, 0, 0, 0, 0, 4, 0, 0, 0, 0))
"""An A-RELEASE-RQ PDU (PS3.8 9.3.6)."""

_COMMAND_FIELD: Final = 0x0100
_MESSAGE_ID_RESPONDED_TO: Final = 0x0120
_DATA_SET_TYPE: Final = 0x0800
_STATUS: Final = 0x0900
_ERROR_COMMENT: Final = 0x0902
_REQUIRED_IN_RESPONSES: Final = {_COMMAND_FIELD, _MESSAGE_ID_RESPONDED_TO, _STATUS}
_NO_DATA_SET: Final = 0x0101
_WITH_DATA_SET: Final = 0x0001
_MEDIUM_PRIORITY: Final = 0
_LOW_PRIORITY: Final = 2

_item = Struct(">BxH")
_pdu_header = Struct(">BxI")
_element = Struct("<HHI")
_u16_element = Struct("<HHIH")
_group_length = Struct("<HHII")


class Context(NamedTuple):
    """One proposed presentation context (PS3.8 9.3.2.2)."""

    sop_class: str
    transfer_syntaxes: tuple[str, ...]
    """UIDs of the proposed transfer syntaxes, of which the peer chooses one."""


class AcceptedContext(NamedTuple):
    """The peer's answer to a proposed presentation context that it accepts."""

    id: int
    transfer_syntax: str
    """UID of the transfer syntax that the peer has chosen."""


class Acceptance(NamedTuple):
    """The parts of an A-ASSOCIATE-AC that a requestor needs (PS3.8 9.3.3)."""

    accepted: Mapping[Context, AcceptedContext]
    """The accepted presentation contexts, by the proposed ones."""
    max_pdu_length: int
    """Greatest P-DATA-TF variable field that the peer receives, in bytes; 0 is unlimited."""


class Response(NamedTuple):
    """The elements of a DIMSE response that a requestor needs (PS3.7 annex E)."""

    field: int
    """Command Field (0000,0100), such as 8001H."""
    message_id: int
    """Message ID Being Responded To (0000,0120): the id of the request."""
    status: int
    comment: str
    """Error Comment (0000,0902); empty if there is none."""
    has_data_set: bool = False
    """Whether a data set follows the command set."""


# ---- association -----------------------------------------------------------------------------


def encode_associate_rq(
    called: str, calling: str, contexts: Iterable[Context], max_pdu_length: int
) -> bytes:
    """Return a whole A-ASSOCIATE-RQ PDU (PS3.8 9.3.2).

    The ids of the contexts are 1, 3, 5 and so on. `max_pdu_length` is the greatest P-DATA-TF
    variable field that we receive, in bytes.
    """
    user = (
        _encoded_item(0x51, max_pdu_length.to_bytes(4))
        + _encoded_item(0x52, IMPLEMENTATION_CLASS_UID.encode())
        + _encoded_item(0x55, IMPLEMENTATION_VERSION_NAME.encode())
    )
    variable = b"".join(
        (
            b"\0\1\0\0",
            *(title.encode("latin-1").ljust(16) for title in (called, calling)),
            bytes(32),
            _encoded_item(0x10, APPLICATION_CONTEXT.encode()),
            *(_encoded_context(2 * i + 1, context) for i, context in enumerate(contexts)),
            _encoded_item(0x50, user),
        )
    )
    return _pdu_header.pack(PduType.A_ASSOCIATE_RQ, len(variable)) + variable


def _encoded_context(context_id: int, context: Context) -> bytes:
    syntaxes = b"".join(
        (
            _encoded_item(0x30, context.sop_class.encode()),
            *(_encoded_item(0x40, syntax.encode()) for syntax in context.transfer_syntaxes),
        )
    )
    return _encoded_item(0x20, bytes((context_id, 0, 0, 0)) + syntaxes)


def _encoded_item(kind: int, value: bytes) -> bytes:
    return _item.pack(kind, len(value)) + value


def decode_associate_ac(body: bytes, proposed: Iterable[Context]) -> Acceptance:
    """Decode an A-ASSOCIATE-AC. `body` has all bytes after the PDU's 6-byte header.

    `proposed` must be the contexts of the request, in order. Raises PeerError if the PDU is
    malformed, or accepts a context or a transfer syntax that was not proposed.
    """
    by_id = {2 * i + 1: context for i, context in enumerate(proposed)}
    accepted: dict[Context, AcceptedContext] = {}
    max_pdu_length = 0
    for kind, value in _items(body[68:]):
        if kind == 0x21 and len(value) >= 4 and value[2] == 0:
            context = by_id.get(value[0])
            syntax = dict(_items(value[4:])).get(0x40, b"").strip(b"\0 ").decode("latin-1")
            if context is None or syntax not in context.transfer_syntaxes:
                raise _invalid("it accepts a presentation context that was not proposed")
            accepted[context] = AcceptedContext(value[0], syntax)
        elif kind == 0x50:
            max_pdu_length = int.from_bytes(dict(_items(value)).get(0x51, b""))
    return Acceptance(accepted, max_pdu_length)


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position < len(data):
        if len(data) - position < 4:
            raise _invalid("its A-ASSOCIATE-AC ends within the header of an item")
        kind, length = _item.unpack_from(data, position)
        start, position = position + 4, position + 4 + length
        if position > len(data):
            raise _invalid(f"its item {kind:02X}H is longer than what contains it")
        yield kind, data[start:position]


_REJECTIONS: Final[Mapping[tuple[int, int], str]] = {
    (1, 1): "no reason given",
    (1, 2): "application context name not supported",
    (1, 3): "calling AE title not recognized",
    (1, 7): "called AE title not recognized",
    (2, 1): "no reason given",
    (2, 2): "protocol version not supported",
    (3, 1): "temporary congestion",
    (3, 2): "local limit exceeded",
}
_REJECTION_SOURCES: Final = {
    1: "service user",
    2: "service provider (ACSE)",
    3: "service provider (presentation)",
}
_RESULTS: Final = {1: "permanent", 2: "transient"}


def rejection_text(result: int, source: int, reason: int) -> str:
    """Return the description of an A-ASSOCIATE-RJ in the words of PS3.8 table 9-21."""
    return (
        f"{_REJECTIONS.get((source, reason), f'reason {reason}')}"
        f" ({_RESULTS.get(result, f'result {result}')}, by the"
        f" {_REJECTION_SOURCES.get(source, f'source {source}')})"
    )


_ABORTS: Final = {reason.value: reason.name.lower().replace("_", " ") for reason in AbortReason}


def abort_text(source: int, reason: int) -> str:
    """Return the description of an A-ABORT in the words of PS3.8 table 9-26.

    The reason has a meaning only if the source is the service provider.
    """
    if source == 2:
        return f"by its service provider ({_ABORTS.get(reason, f'reason {reason}')})"
    return "by its service user" if source == 0 else f"by source {source}"


# ---- DIMSE -----------------------------------------------------------------------------------


def encode_echo_request(message_id: int) -> bytes:
    """Return the command set of a C-ECHO-RQ (PS3.7 table 9.3-12)."""
    return _command(
        _uid_element(0x0002, VERIFICATION),
        _u16_element.pack(0, _COMMAND_FIELD, 2, CommandField.C_ECHO_RQ),
        _u16_element.pack(0, 0x0110, 2, message_id),
        _u16_element.pack(0, _DATA_SET_TYPE, 2, _NO_DATA_SET),
    )


def encode_store_request(message_id: int, sop_class_uid: str, sop_instance_uid: str) -> bytes:
    """Return the command set of a C-STORE-RQ of medium priority (PS3.7 table 9.3-1)."""
    return _command(
        _uid_element(0x0002, sop_class_uid),
        _u16_element.pack(0, _COMMAND_FIELD, 2, CommandField.C_STORE_RQ),
        _u16_element.pack(0, 0x0110, 2, message_id),
        _u16_element.pack(0, 0x0700, 2, _MEDIUM_PRIORITY),
        _u16_element.pack(0, _DATA_SET_TYPE, 2, _WITH_DATA_SET),
        _uid_element(0x1000, sop_instance_uid),
    )


def encode_find_request(message_id: int, sop_class_uid: str) -> bytes:
    """Return the command set of a C-FIND-RQ of low priority (PS3.7 table 9.3-3)."""
    return _command(
        _uid_element(0x0002, sop_class_uid),
        _u16_element.pack(0, _COMMAND_FIELD, 2, CommandField.C_FIND_RQ),
        _u16_element.pack(0, 0x0110, 2, message_id),
        _u16_element.pack(0, 0x0700, 2, _LOW_PRIORITY),
        _u16_element.pack(0, _DATA_SET_TYPE, 2, _WITH_DATA_SET),
    )


def _command(*elements: bytes) -> bytes:
    whole = b"".join(elements)
    return _group_length.pack(0, 0, 4, len(whole)) + whole


@lru_cache(maxsize=256)
def _uid_element(element: int, uid: str) -> bytes:
    value = uid.encode("latin-1")
    value += b"\0" * (len(value) & 1)
    return _element.pack(0, element, len(value)) + value


def decode_p_data(body: bytes) -> list[tuple[int, bytes]]:
    """Return the message control header and the fragment of each PDV of a P-DATA-TF (PS3.8 9.3.5).

    `body` has all bytes after the PDU's 6-byte header. Raises PeerError if it is malformed.
    """
    pdvs = []
    position = 0
    while position < len(body):
        length = int.from_bytes(body[position : position + 4])
        end = position + 4 + length
        if length < 2 or end > len(body):
            raise _invalid("its PDV does not fit into its PDU")
        pdvs.append((body[position + 5], body[position + 6 : end]))
        position = end
    return pdvs


def decode_response(command: bytes) -> Response:
    """Decode the command set of a response, whose elements may be in any order.

    Raises PeerError if it is malformed, or lacks Command Field, Message ID Being Responded To or
    Status.
    """
    found: dict[int, int] = {}
    comment = ""
    position = 0
    while position < len(command):
        if len(command) - position < 8:
            raise _invalid("its command set ends within the header of an element")
        group, element, length = _element.unpack_from(command, position)
        start, position = position + 8, position + 8 + length
        if position > len(command):
            raise _invalid("an element is longer than its command set")
        if group == 0 and element in (*_REQUIRED_IN_RESPONSES, _DATA_SET_TYPE):
            found[element] = int.from_bytes(command[start:position][:2], "little")
        elif group == 0 and element == _ERROR_COMMENT:
            comment = command[start:position].strip(b"\0 ").decode("latin-1")
    if not found.keys() >= _REQUIRED_IN_RESPONSES:
        raise _invalid("it sends a command that is not a response with a status")
    return Response(
        found[_COMMAND_FIELD],
        found[_MESSAGE_ID_RESPONDED_TO],
        found[_STATUS],
        comment,
        found.get(_DATA_SET_TYPE, _NO_DATA_SET) != _NO_DATA_SET,
    )


_STATUSES: Final[Mapping[int, str]] = {
    0x0000: "success",
    0x0105: "no such attribute",
    0x0106: "invalid attribute value",
    0x0110: "processing failure",
    0x0111: "duplicate SOP instance",
    0x0112: "no such SOP instance",
    0x0117: "invalid SOP instance",
    0x0118: "no such SOP class",
    0x0119: "class-instance conflict",
    0x0122: "SOP class not supported",
    0x0124: "not authorized",
    0x0210: "duplicate invocation",
    0x0211: "unrecognized operation",
    0x0212: "mistyped argument",
    0x0213: "resource limitation",
    0xB000: "warning: coercion of data elements",
    0xB006: "warning: elements discarded",
    0xB007: "warning: data set does not match SOP class",
    0xFE00: "cancelled",
}


def status_text(status: int) -> str:
    """Return a status as text: `A700H out of resources` (PS3.7 annex C, PS3.4 table B.2-1)."""
    text = _STATUSES.get(status)
    if text is None:
        match status >> 8, status >> 12:
            case 0xA7, _:
                text = "out of resources"
            case 0xA9, _:
                text = "data set does not match SOP class"
            case _, 0xC:
                text = "cannot understand"
            case _, 0xB:
                text = "warning"
            case _:
                text = "failure"
    return f"{status:04X}H {text}"


def is_stored(status: int) -> bool:
    """Return whether a C-STORE status means that the instance is stored (PS3.7 annex C).

    It is True for success and for warnings.
    """
    return status == 0 or status >> 12 == 0xB or status in (0x0001, 0x0107, 0x0116)


def is_pending(status: int) -> bool:
    """Return whether a status means that more responses follow (PS3.7 annex C.2)."""
    return status in (0xFF00, 0xFF01)


def _invalid(text: str) -> PeerError:
    return PeerError(AbortReason.INVALID_PDU_PARAMETER_VALUE, text)
