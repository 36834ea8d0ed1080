"""Encoding of what a sender puts around its data sets, and decoding of the answers."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
IMPLEMENTATION_CLASS_UID = "2.25.117331928044563620163047551370904427359"

RELEASE_RQ = bytes([5, 0, 0, 0, 0, 4, 0, 0, 0, 0])
A_ASSOCIATE_AC = 2
CONTEXT_ID = 1
"""Presentation context id of CT images, whatever else is proposed."""
COMMAND, LAST = 1, 2
"""Bits of a message control header (PS3.8 E.2)."""

PDU_AND_PDV_HEADERS = 12
LONGEST_PDU = 1 << 20
"""Bytes of a P-DATA-TF's variable field where the receiver sets no limit, or a higher one."""

_COMMAND_ELEMENT = struct.Struct("<xxHI")


def _item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(content)) + content


def associate_rq(
    called: str, calling: str, transfer_syntax: str, others: Sequence[str] = ()
) -> bytes:
    """Encode an A-ASSOCIATE-RQ (PS3.8 9.3.2) for CT images and for `others`, abstract syntaxes that
    have a context each."""
    syntax = _item(0x40, transfer_syntax.encode())
    contexts = b"".join(
        _item(0x20, bytes([CONTEXT_ID + 2 * n, 0, 0, 0]) + _item(0x30, abstract.encode()) + syntax)
        for n, abstract in enumerate((CT_IMAGE_STORAGE, *others))
    )
    user = _item(0x51, struct.pack(">I", 16384)) + _item(0x52, IMPLEMENTATION_CLASS_UID.encode())
    body = (
        struct.pack(">HH16s16s32x", 1, 0, called.ljust(16).encode(), calling.ljust(16).encode())
        + _item(0x10, APPLICATION_CONTEXT.encode())
        + contexts
        + _item(0x50, user)
    )
    return struct.pack(">BxI", 1, len(body)) + body


def max_length_of(associate_ac: bytes) -> int:
    """Return the longest P-DATA-TF variable field, in bytes, that a whole A-ASSOCIATE-AC allows.

    Raises ValueError where it is no A-ASSOCIATE-AC, or has not accepted CT images.
    """
    if associate_ac[0] != A_ASSOCIATE_AC:
        raise ValueError(f"the association was answered by a PDU of type {associate_ac[0]}")
    result, limit = None, 0
    position = 6 + 68
    while position + 4 <= len(associate_ac):
        kind, length = struct.unpack_from(">BxH", associate_ac, position)
        position += 4
        if kind == 0x50:  # its sub-items follow
            continue
        if kind == 0x21 and associate_ac[position] == CONTEXT_ID:
            result = associate_ac[position + 2]
        if kind == 0x51:
            (limit,) = struct.unpack_from(">I", associate_ac, position)
        position += length
    if result != 0:
        raise ValueError(f"CT images were not accepted: result {result}")
    return min(limit or LONGEST_PDU, LONGEST_PDU)


def even(value: bytes, padding: bytes) -> bytes:
    """Return a value padded to an even length (PS3.5 7.1)."""
    return value + padding if len(value) % 2 else value


def store_rq(sop_instance_uid: str, message_id: int) -> bytes:
    """Encode the command set of a C-STORE-RQ (PS3.7 9.3.1.1)."""
    elements = b"".join(
        struct.pack("<HHI", 0, element, len(value)) + value
        for element, value in (
            (0x0002, even(CT_IMAGE_STORAGE.encode(), b"\0")),
            (0x0100, struct.pack("<H", 0x0001)),
            (0x0110, struct.pack("<H", message_id)),
            (0x0700, struct.pack("<H", 0)),
            (0x0800, struct.pack("<H", 1)),
            (0x1000, even(sop_instance_uid.encode(), b"\0")),
        )
    )
    return struct.pack("<HHII", 0, 0, 4, len(elements)) + elements


def pdu_header(fragment: int, control: int) -> bytes:
    """Encode the header of a P-DATA-TF with one PDV of `fragment` bytes (PS3.8 9.3.5)."""
    return struct.pack(">BxIIBB", 4, fragment + 6, fragment + 2, CONTEXT_ID, control)


def p_data(message: bytes, control: int, max_length: int) -> Iterator[bytes]:
    """Yield headers and fragments in turn. `max_length` bounds the variable field of a PDU."""
    step = max_length - 6
    for start in range(0, len(message), step):
        fragment = message[start : start + step]
        last = LAST if start + step >= len(message) else 0
        yield pdu_header(len(fragment), control | last)
        yield fragment


def status_of(response: bytes | bytearray) -> int | None:
    """Return the status of a C-STORE-RSP that is the first PDV of `response`, or None."""
    position = PDU_AND_PDV_HEADERS
    (length,) = struct.unpack_from(">I", response, 6)
    end = 10 + length
    while response[0] == 4 and position + 10 <= end:
        element, length = _COMMAND_ELEMENT.unpack_from(response, position)
        position += 8
        if element == 0x0900:
            return int.from_bytes(response[position : position + 2], "little")
        position += length
    return None
