"""The bytes of one sender, made before any clock starts; and the little it must read."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
IMPLEMENTATION_CLASS_UID = "2.25.117331928044563620163047551370904427359"
UID_ROOT = "1.2.826.0.1.3680043.10.1714"

RELEASE_RQ = bytes([5, 0, 0, 0, 0, 4, 0, 0, 0, 0])
CONTEXT_ID = 1
COMMAND, LAST = 1, 2
"""Bits of a message control header (PS3.8 E.2)."""

PDU_AND_PDV_HEADERS = 12
_COMMAND_ELEMENT = struct.Struct("<xxHI")
_LONG_LENGTH_VRS = {b"OW"}


def _item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(content)) + content


def associate_rq(called: str, calling: str) -> bytes:
    """An A-ASSOCIATE-RQ for CT images in Explicit VR Little Endian (PS3.8 9.3.2)."""
    context = bytes([CONTEXT_ID, 0, 0, 0]) + (
        _item(0x30, CT_IMAGE_STORAGE.encode()) + _item(0x40, EXPLICIT_VR_LITTLE_ENDIAN.encode())
    )
    user = _item(0x51, struct.pack(">I", 16384)) + _item(0x52, IMPLEMENTATION_CLASS_UID.encode())
    body = (
        struct.pack(">HH16s16s32x", 1, 0, called.ljust(16).encode(), calling.ljust(16).encode())
        + _item(0x10, APPLICATION_CONTEXT.encode())
        + _item(0x20, context)
        + _item(0x50, user)
    )
    return struct.pack(">BxI", 1, len(body)) + body


def peer_max_length(associate_ac: bytes) -> int:
    """Of a whole A-ASSOCIATE-AC PDU, bytes; 1 MiB where the peer sets no limit."""
    position = 6 + 68
    while position + 4 <= len(associate_ac):
        kind, length = struct.unpack_from(">BxH", associate_ac, position)
        position += 4
        if kind == 0x50:  # its sub-items follow
            continue
        if kind == 0x51:
            (limit,) = struct.unpack_from(">I", associate_ac, position)
            return int(limit) or 1 << 20
        position += length
    return 1 << 20


def store_rq(sop_instance_uid: str, message_id: int) -> bytes:
    """The command set of a C-STORE-RQ (PS3.7 9.3.1.1)."""
    elements = b"".join(
        struct.pack("<HHI", 0, element, len(value)) + value
        for element, value in (
            (0x0002, _even(CT_IMAGE_STORAGE.encode(), b"\0")),
            (0x0100, struct.pack("<H", 0x0001)),
            (0x0110, struct.pack("<H", message_id)),
            (0x0700, struct.pack("<H", 0)),
            (0x0800, struct.pack("<H", 1)),
            (0x1000, _even(sop_instance_uid.encode(), b"\0")),
        )
    )
    return struct.pack("<HHII", 0, 0, 4, len(elements)) + elements


def _even(value: bytes, padding: bytes) -> bytes:
    return value + padding if len(value) % 2 else value


def _element(tag: int, vr: bytes, value: bytes) -> bytes:
    value = _even(value, b"\0" if vr == b"UI" else b" ")
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr
    if vr in _LONG_LENGTH_VRS:
        return head + struct.pack("<xxI", len(value)) + value
    return head + struct.pack("<H", len(value)) + value


def data_set_head(series: int, number: int, pixel_bytes: int) -> bytes:
    """A CT image up to and without its pixels, of the same length for every `number`."""
    study = _study_instance_uid(series)
    us = struct.Struct("<H").pack
    elements: list[tuple[int, bytes, bytes]] = [
        (0x00080005, b"CS", b"ISO_IR 100"),
        (0x00080008, b"CS", rb"ORIGINAL\PRIMARY\AXIAL"),
        (0x00080016, b"UI", CT_IMAGE_STORAGE.encode()),
        (0x00080018, b"UI", sop_instance_uid(series, number).encode()),
        (0x00080020, b"DA", b"20240102"),
        (0x00080030, b"TM", b"101010"),
        (0x00080050, b"SH", b"ACC123"),
        (0x00080060, b"CS", b"CT"),
        (0x00080070, b"LO", b"ACME"),
        (0x00081030, b"LO", b"CHEST W/O CONTRAST"),
        (0x0008103E, b"LO", b"AXIAL 1.25mm LUNG"),
        (0x00100010, b"PN", b"Doe^Jane"),
        (0x00100020, b"LO", b"PID%010d" % series),
        (0x00100030, b"DA", b"19700101"),
        (0x00100040, b"CS", b"F"),
        (0x00101010, b"AS", b"053Y"),
        (0x00180050, b"DS", b"1.25"),
        (0x00181030, b"LO", b"6.1 Chest Routine"),
        (0x0020000D, b"UI", study.encode()),
        (0x0020000E, b"UI", f"{study}.1".encode()),
        (0x00200011, b"IS", b"3"),
        (0x00200013, b"IS", b"%d" % (100000 + number)),
        (0x00200032, b"DS", rb"1\2\3.5"),
        (0x00200037, b"DS", rb"1\0\0\0\1\0"),
        (0x00280002, b"US", us(1)),
        (0x00280004, b"CS", b"MONOCHROME2"),
        (0x00280010, b"US", us(1)),
        (0x00280011, b"US", us(min(pixel_bytes // 2, 0xFFFF))),
        (0x00280100, b"US", us(16)),
        (0x00280101, b"US", us(12)),
        (0x00280102, b"US", us(11)),
        (0x00280103, b"US", us(0)),
    ]
    head = b"".join(_element(*element) for element in elements)
    return head + struct.pack("<HH2sxxI", 0x7FE0, 0x0010, b"OW", pixel_bytes)


def sop_instance_uid(series: int, number: int) -> str:
    return f"{_study_instance_uid(series)}.1.{100000 + number}"


def _study_instance_uid(series: int) -> str:
    return f"{UID_ROOT}.{1_000_000_000 + series}"  # of one length, and no part begins with 0


def p_data(message: bytes, control: int, max_length: int) -> Iterator[bytes]:
    """P-DATA-TF PDUs of one PDV each (PS3.8 9.3.5); `max_length` bounds their variable field."""
    step = max_length - 6
    for start in range(0, len(message), step):
        fragment = message[start : start + step]
        last = LAST if start + step >= len(message) else 0
        yield struct.pack(
            ">BxIIBB", 4, len(fragment) + 6, len(fragment) + 2, CONTEXT_ID, control | last
        )
        yield fragment


class Series(NamedTuple):
    """What one association sends: per instance its own head, then the tail that all share."""

    heads: list[bytes]
    """The command, and the data set up to its pixels."""
    tail: bytes
    """Pixels and the PDU headers amid them."""
    data_set_bytes: int


def encode_series(series: int, count: int, size: int, max_length: int) -> Series:
    """`count` instances whose data sets have `size` bytes each."""
    size -= size % 2
    pixel_bytes = size - len(data_set_head(series, 0, 0))
    if pixel_bytes < 2 or max_length < len(data_set_head(series, 0, 0)) + PDU_AND_PDV_HEADERS:
        raise ValueError(f"{size} bytes, or a PDU of {max_length}, are too few for the tags")
    template = data_set_head(series, 0, pixel_bytes) + b"\x5a" * pixel_bytes
    framed = b"".join(p_data(template, 0, max_length))
    own = PDU_AND_PDV_HEADERS + len(template) - pixel_bytes
    heads = []
    for number in range(count):
        uid = sop_instance_uid(series, number)
        command = b"".join(p_data(store_rq(uid, number % 65535 + 1), COMMAND, max_length))
        tags = data_set_head(series, number, pixel_bytes)
        heads.append(command + framed[:PDU_AND_PDV_HEADERS] + tags)
    return Series(heads, framed[own:], len(template))


def status_of(response: bytes | bytearray) -> int | None:
    """Status of a C-STORE-RSP that is the first PDV of `response`; None where there is none."""
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
