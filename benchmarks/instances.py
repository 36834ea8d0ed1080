"""The instances of one sender, encoded before any clock starts."""

from __future__ import annotations

import struct
from typing import NamedTuple

from benchmarks.encoding import (
    COMMAND,
    CT_IMAGE_STORAGE,
    IMPLICIT_VR_LITTLE_ENDIAN,
    LAST,
    even,
    p_data,
    pdu_header,
    store_rq,
)

UID_ROOT = "1.2.826.0.1.3680043.10.1714"
FIRST_NUMBER = 500000
"""First instance number: all of them have six digits."""

PIXEL = b"\x5a"
JOINED = 4 << 20
"""Bytes up to which an instance is one piece to send; a longer one repeats a block of these."""

_LONG_LENGTH_VRS = {b"OW"}


def sop_instance_uid(series: int, number: int) -> str:
    return f"{_study_instance_uid(series)}.1.{FIRST_NUMBER + number}"


def _study_instance_uid(series: int) -> str:
    return f"{UID_ROOT}.{1_000_000_000 + series}"  # of one length, and no part begins with 0


def element(tag: int, vr: bytes, value: bytes, implicit: bool = False) -> bytes:
    """Encode one element in Explicit or Implicit VR Little Endian (PS3.5 7.1)."""
    value = even(value, b"\0" if vr == b"UI" else b" ")
    return element_header(tag, vr, len(value), implicit) + value


def element_header(tag: int, vr: bytes, length: int, implicit: bool = False) -> bytes:
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    if implicit:
        return head + struct.pack("<I", length)
    return head + vr + struct.pack("<xxI" if vr in _LONG_LENGTH_VRS else "<H", length)


def data_set_head(series: int, number: int, pixel_bytes: int, implicit: bool = False) -> bytes:
    """Encode a CT image up to its pixels, with the same length for every `number`."""
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
        (0x00200013, b"IS", b"%d" % (FIRST_NUMBER + number)),
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
    head = b"".join(element(*one, implicit) for one in elements)
    return head + element_header(0x7FE00010, b"OW", pixel_bytes, implicit)


class Series(NamedTuple):
    """What one sender sends: the beginning of each instance, and what all instances share."""

    commands: list[bytes]
    """P-DATA-TF PDUs of the C-STORE-RQ."""
    heads: list[bytes]
    """The first PDU of the data set, as far as its pixels."""
    tail: bytes
    """Pixels and the PDU headers between them."""
    rest: tuple[bytes, ...]
    """Further pieces, where an instance is too long for one: one block, many times."""
    data_set_bytes: int

    def stream(self, number: int) -> bytes:
        """Return all bytes of one instance."""
        return b"".join((self.commands[number], self.heads[number], self.tail, *self.rest))


def encode_series(
    series: int, count: int, size: int, max_length: int, transfer_syntax: str
) -> Series:
    """Encode `count` instances whose data sets have `size` bytes each.

    Raises ValueError where `size` or `max_length` is too small for the tags.
    """
    implicit = transfer_syntax == IMPLICIT_VR_LITTLE_ENDIAN
    size -= size % 2
    tags = len(data_set_head(series, 0, 0, implicit))
    pixels = size - tags
    step = max_length - 6
    if pixels < 2 or step <= tags:
        raise ValueError(f"{size} bytes, or a PDU of {max_length}, are too few for the tags")
    first = pdu_header(min(step, size), LAST if size <= step else 0)
    # Encoding each head again would take longer than sending it.
    template = data_set_head(series, 0, pixels, implicit).split(b"%d" % FIRST_NUMBER)
    tail, rest = _pixels(size, pixels, step)
    return Series(
        [
            b"".join(p_data(store_rq(sop_instance_uid(series, n), n % 65535 + 1), COMMAND, 16384))
            for n in range(count)
        ],
        [first + (b"%d" % (FIRST_NUMBER + n)).join(template) for n in range(count)],
        tail,
        rest,
        size,
    )


def _pixels(size: int, pixels: int, step: int) -> tuple[bytes, tuple[bytes, ...]]:
    """Return what follows the tags, as one piece and as further ones."""
    begun = PIXEL * (pixels - max(0, size - step))
    whole, last = divmod(max(0, size - step), step)
    if whole and not last:
        whole, last = whole - 1, step
    middle = pdu_header(step, 0) + PIXEL * step
    end = pdu_header(last, LAST) + PIXEL * last if last else b""
    if size <= JOINED:
        return begun + middle * whole + end, ()
    block = max(1, JOINED // len(middle))
    blocks, single = divmod(whole, block)
    return begun, (*(middle * block,) * blocks, *(middle,) * single, end)
