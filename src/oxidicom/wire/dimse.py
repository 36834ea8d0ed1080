"""DIMSE command sets (PS3.7 6.3 and annex E): those of peers are decoded, our responses encoded."""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from typing import Final, NamedTuple

from oxidicom import _dimse
from oxidicom.constants import VERIFICATION, AbortReason, CommandField, DimseStatus
from oxidicom.errors import PeerError

# Tags as the little endian number that group and element make together on the wire.
_GROUP_LENGTH: Final = 0x0000_0000
_AFFECTED_SOP_CLASS_UID: Final = 0x0002_0000
_REQUESTED_SOP_CLASS_UID: Final = 0x0003_0000
_COMMAND_FIELD: Final = 0x0100_0000
_MESSAGE_ID: Final = 0x0110_0000
_MESSAGE_ID_BEING_RESPONDED_TO: Final = 0x0120_0000
_COMMAND_DATA_SET_TYPE: Final = 0x0800_0000
_STATUS: Final = 0x0900_0000
_OFFENDING_ELEMENT: Final = 0x0901_0000
_ERROR_COMMENT: Final = 0x0902_0000
_AFFECTED_SOP_INSTANCE_UID: Final = 0x1000_0000
_REQUESTED_SOP_INSTANCE_UID: Final = 0x1001_0000

_NO_DATA_SET: Final = 0x0101
_RESPONSE: Final = 0x8000
_MAX_COMMENT_LENGTH: Final = 64
"""Greatest number of characters of an LO value (PS3.5 table 6.2-1)."""

_element = Struct("<II")
_u16 = Struct("<H")
_group_length = Struct("<III")
_response_fields = Struct("<IIH IIH IIH IIH")
_offending_element = Struct("<II HH")

_C_STORE_RQ: Final = int(CommandField.C_STORE_RQ)


class Command(NamedTuple):
    """The elements of a command set that an acceptor uses."""

    field: int
    """Command Field (0000,0100); see `CommandField`."""
    message_id: int
    """Message ID (0000,0110); 0 in responses and C-CANCEL, which have none."""
    message_id_being_responded_to: int
    """Message ID Being Responded To (0000,0120); 0 if the command set has none."""
    sop_class_uid: str
    """Affected SOP Class UID or, without one, Requested SOP Class UID; may be empty."""
    sop_instance_uid: str
    """Affected SOP Instance UID or, without one, Requested SOP Instance UID; may be empty."""
    has_data_set: bool
    """Whether a data set follows the command set."""


def decode_command(command: bytes) -> Command:
    """Decode a whole command set in Implicit VR Little Endian.

    Elements may be in any order and of odd length; the group length may be missing. Unknown
    elements are skipped; the last of repeated elements is used. Raises PeerError (reason 6) for an
    element longer than the rest, a missing Command Field, a request without Message ID, and a
    C-STORE-RQ without Affected UIDs or data set (decision 17).
    """
    store_request = _dimse.read_store_request(command)
    if store_request is not None:
        message_id, sop_class_uid, sop_instance_uid = store_request
        return Command(_C_STORE_RQ, message_id, 0, sop_class_uid, sop_instance_uid, True)
    return decode_general_command(command)


def decode_general_command(command: bytes) -> Command:
    """Decode a command set as `decode_command` does, without its compiled reader."""
    unpack = _element.unpack_from
    elements: dict[int, bytes] = {}
    position, end = 0, len(command)
    while position < end:
        if end - position < 8:
            raise _invalid("command set ends within the header of an element")
        tag, length = unpack(command, position)
        start = position + 8
        position = start + length
        if position > end:
            raise _invalid("an element runs past the end of its command set")
        elements[tag] = command[start:position]

    field = _number(elements, _COMMAND_FIELD)
    if field is None:
        raise _invalid("command set without Command Field")
    message_id = _number(elements, _MESSAGE_ID)
    if message_id is None and not _refers_to_another_message(field):
        raise _invalid("request without Message ID")
    data_set_type = _number(elements, _COMMAND_DATA_SET_TYPE)
    # Command Data Set Type is mandatory; if it is absent, only a C-STORE-RQ has a data set.
    if_absent = field == _C_STORE_RQ
    has_data_set = if_absent if data_set_type is None else data_set_type != _NO_DATA_SET
    decoded = Command(
        field,
        message_id or 0,
        _number(elements, _MESSAGE_ID_BEING_RESPONDED_TO) or 0,
        _uid(elements, _AFFECTED_SOP_CLASS_UID) or _uid(elements, _REQUESTED_SOP_CLASS_UID),
        _uid(elements, _AFFECTED_SOP_INSTANCE_UID) or _uid(elements, _REQUESTED_SOP_INSTANCE_UID),
        has_data_set,
    )
    if field == _C_STORE_RQ:
        _check_store_request(decoded, elements)
    return decoded


def _check_store_request(command: Command, elements: dict[int, bytes]) -> None:
    """Raise PeerError unless a C-STORE-RQ has Affected UIDs and a data set (PS3.7 table 9.3-1)."""
    if not _uid(elements, _AFFECTED_SOP_CLASS_UID):
        raise _invalid("C-STORE-RQ without Affected SOP Class UID")
    if not _uid(elements, _AFFECTED_SOP_INSTANCE_UID):
        raise _invalid("C-STORE-RQ without Affected SOP Instance UID")
    if not command.has_data_set:
        raise _invalid("C-STORE-RQ without data set")


def _refers_to_another_message(field: int) -> bool:
    return bool(field & _RESPONSE) or field == CommandField.C_CANCEL_RQ


def _number(elements: dict[int, bytes], tag: int) -> int | None:
    value = elements.get(tag)
    return None if value is None or len(value) < 2 else int.from_bytes(value[:2], "little")


def _uid(elements: dict[int, bytes], tag: int) -> str:
    return _trimmed(elements.get(tag, b""))


def _trimmed(value: bytes) -> str:
    """Return a UID without NULs and spaces at either end (decision 9)."""
    return value.strip(b"\0 ").decode("latin-1")


def _invalid(text: str) -> PeerError:
    return PeerError(AbortReason.INVALID_PDU_PARAMETER_VALUE, text)


# ---- responses -----------------------------------------------------------------------------


def encode_store_response(
    message_id: int,
    sop_class_uid: str,
    sop_instance_uid: str,
    status: int = DimseStatus.SUCCESS,
    comment: str | None = None,
    offending: int | None = None,
) -> bytes:
    """Encode a C-STORE-RSP (PS3.7 table 9.3-2) to the request with these ids.

    `comment` is cut to 64 ASCII characters. `offending` is the tag of the offending element,
    gggg << 16 | eeee.
    """
    if not status and comment is None and offending is None:
        response = _dimse.success_response(message_id, sop_class_uid, sop_instance_uid)
        if response is not None:
            return response
    return encode_response(
        CommandField.C_STORE_RSP,
        message_id,
        sop_class_uid,
        sop_instance_uid,
        status,
        _details(comment, offending),
    )


def encode_echo_response(message_id: int) -> bytes:
    """Encode a C-ECHO-RSP of Success (PS3.7 table 9.3-13; decision 18)."""
    return encode_response(CommandField.C_ECHO_RSP, message_id, VERIFICATION)


def encode_unsupported_response(request: Command) -> bytes:
    """Encode the response to a request that is not served: 0211H, unrecognized operation
    (PS3.7 C.5.23)."""
    return encode_failure(request, DimseStatus.UNRECOGNIZED_OPERATION)


def encode_failure(request: Command, status: int, comment: str | None = None) -> bytes:
    """Encode a response with `status` to any request. `comment` is cut to 64 ASCII characters."""
    return encode_response(
        request.field | _RESPONSE,
        request.message_id,
        request.sop_class_uid,
        request.sop_instance_uid,
        status,
        _details(comment, None),
    )


def encode_response(
    field: int,
    message_id: int,
    sop_class_uid: str,
    sop_instance_uid: str = "",
    status: int = DimseStatus.SUCCESS,
    details: bytes = b"",
) -> bytes:
    """Encode the command set of a response that has no data set. An empty UID is left out.

    `details` has encoded elements, which are inserted between Status and Affected SOP Instance UID.
    """
    sop_class = _sop_class_element(sop_class_uid)
    sop_instance = (
        _uid_element(_AFFECTED_SOP_INSTANCE_UID, sop_instance_uid) if sop_instance_uid else b""
    )
    fields = _response_fields.pack(
        _COMMAND_FIELD,
        2,
        field,
        _MESSAGE_ID_BEING_RESPONDED_TO,
        2,
        message_id,
        _COMMAND_DATA_SET_TYPE,
        2,
        _NO_DATA_SET,
        _STATUS,
        2,
        status,
    )
    length = len(sop_class) + len(fields) + len(details) + len(sop_instance)
    return (
        _group_length.pack(_GROUP_LENGTH, 4, length) + sop_class + fields + details + sop_instance
    )


@lru_cache(maxsize=256)
def _sop_class_element(uid: str) -> bytes:
    """Return an encoded element. It is cached, because one sender uses few SOP classes."""
    return _uid_element(_AFFECTED_SOP_CLASS_UID, uid) if uid else b""


def _uid_element(tag: int, uid: str) -> bytes:
    value = uid.encode("latin-1")
    if len(value) & 1:
        value += b"\0"
    return _element.pack(tag, len(value)) + value


def _details(comment: str | None, offending: int | None) -> bytes:
    encoded = b""
    if offending is not None:
        encoded = _offending_element.pack(
            _OFFENDING_ELEMENT, 4, offending >> 16, offending & 0xFFFF
        )
    if comment is not None:
        value = comment.encode("ascii", "replace")[:_MAX_COMMENT_LENGTH]
        if len(value) & 1:
            value += b" "
        encoded += _element.pack(_ERROR_COMMENT, len(value)) + value
    return encoded
