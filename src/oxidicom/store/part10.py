"""The File Meta Information that precedes each data set (PS3.10 7.1)."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Final

from oxidicom._dimse import HeaderTemplate
from oxidicom.constants import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

# Zeros, because other bytes could make the file an executable as well (CVE-2019-11687).
_PREAMBLE: Final = bytes(128) + b"DICM"


def _padded(text: str, pad: bytes) -> bytes:
    # Cut, because a peer may send a UID whose length does not fit into two bytes.
    value = text.encode("latin-1", "replace")[:0xFFFE]
    return value + pad if len(value) % 2 else value


def _element(element: int, vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sH", 0x0002, element, vr, len(value)) + value


@lru_cache(maxsize=1024)
def header_template(
    sop_class: str, instance_length: int, transfer_syntax: str, calling_ae_title: str
) -> HeaderTemplate:
    """Return a file header in which only the SOP Instance UID is missing.

    `instance_length` is the length in bytes of the padded SOP Instance UID, which the group length
    includes. (0002,0016) is the calling AE title, and the implementation is oxidicom (decision 23).
    """
    before = (
        struct.pack("<HH2sHI", 0x0002, 0x0001, b"OB", 0, 2)
        + b"\x00\x01"
        + _element(0x0002, b"UI", _padded(sop_class, b"\0"))
        + struct.pack("<HH2sH", 0x0002, 0x0003, b"UI", instance_length)
    )
    after = (
        _element(0x0010, b"UI", _padded(transfer_syntax, b"\0"))
        + _element(0x0012, b"UI", _padded(IMPLEMENTATION_CLASS_UID, b"\0"))
        + _element(0x0013, b"SH", _padded(IMPLEMENTATION_VERSION_NAME, b" "))
        + _element(0x0016, b"AE", _padded(calling_ae_title, b" "))
    )
    group_length = struct.pack("<I", len(before) + instance_length + len(after))
    before = _PREAMBLE + _element(0x0000, b"UL", group_length) + before
    return HeaderTemplate(before, instance_length, after)


def file_header(
    sop_class: str, sop_instance: str, transfer_syntax: str, calling_ae_title: str
) -> bytes:
    """Return preamble, prefix and group 0002 of a file: below 700 bytes if the UIDs are legal."""
    instance = _padded(sop_instance, b"\0")
    template = header_template(sop_class, len(instance), transfer_syntax, calling_ae_title)
    return template.header(instance)
