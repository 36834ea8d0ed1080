"""Data sets of generated patients: as bytes in each of the four encodings, of any size, with any
text.

The encoder is the tests' own (PS3.5 chapter 7): elements are (tag, VR, value), and a sequence's
value is a list of items, so that lengths, VRs and orders can be wrong on purpose.
"""

from __future__ import annotations

import itertools
import json
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword

from tests.support.raw_peer import BIG_ENDIAN, CT_IMAGE_STORAGE, DEFLATED, IMPLICIT

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors.json").read_text())

Element = tuple[int, str, Any]
"""Tag, VR and value bytes. The value of SQ is a list of items, each a list of elements, or encoded
bytes."""

PIXEL_DATA = 0x7FE00010
LONG_VRS = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"))
UNDEFINED = 0xFFFFFFFF

_root = "1.2.826.0.1.3680043.8.498.5"
_counter = itertools.count(1)


def new_uid() -> str:
    """Return a UID that is unique in this process, so that tests of one files root never
    collide."""
    return f"{_root}.{next(_counter)}"


def encode(
    elements: Iterable[Element], transfer_syntax: str, *, undefined_lengths: bool = False
) -> bytes:
    """Encode a data set in the given order, in the encoding of `transfer_syntax` (PS3.5 annex
    A)."""
    order = ">" if transfer_syntax == BIG_ENDIAN else "<"
    implicit = transfer_syntax == IMPLICIT
    data = b"".join(
        _encode_element(element, order, implicit, undefined_lengths) for element in elements
    )
    return deflated(data) if transfer_syntax == DEFLATED else data


def deflated(data: bytes) -> bytes:
    """Deflate a data set (PS3.5 annex A.5): raw deflate, padded."""
    deflate = zlib.compressobj(wbits=-15)
    small = deflate.compress(data) + deflate.flush()
    return small + b"\0" * (len(small) % 2)


def _encode_element(element: Element, order: str, implicit: bool, undefined: bool) -> bytes:
    tag, vr, value = element
    if vr == "SQ" and not isinstance(value, bytes):
        value = b"".join(_encode_item(item, order, implicit, undefined) for item in value)
        if undefined:
            value += struct.pack(f"{order}HHI", 0xFFFE, 0xE0DD, 0)
    length = UNDEFINED if vr == "SQ" and undefined else len(value)
    return element_header(tag, vr, length, order, implicit) + bytes(value)


def _encode_item(item: Iterable[Element], order: str, implicit: bool, undefined: bool) -> bytes:
    body = b"".join(_encode_element(element, order, implicit, undefined) for element in item)
    if not undefined:
        return struct.pack(f"{order}HHI", 0xFFFE, 0xE000, len(body)) + body
    end = struct.pack(f"{order}HHI", 0xFFFE, 0xE00D, 0)
    return struct.pack(f"{order}HHI", 0xFFFE, 0xE000, UNDEFINED) + body + end


def deep_sequence(tag: int, depth: int, transfer_syntax: str, *, undefined: bool) -> bytes:
    """Encode a sequence in a sequence in a sequence…, each with one item, without recursion."""
    order = ">" if transfer_syntax == BIG_ENDIAN else "<"
    implicit = transfer_syntax == IMPLICIT
    headers: list[bytes] = []
    length = 0
    for _ in range(depth):
        size = UNDEFINED if undefined else length
        headers.append(struct.pack(f"{order}HHI", 0xFFFE, 0xE000, size))
        size = UNDEFINED if undefined else length + 8
        headers.append(element_header(tag, "SQ", size, order, implicit))
        length += 8 + len(headers[-1])
    ends = [struct.pack(f"{order}HHI", 0xFFFE, end, 0) for end in (0xE00D, 0xE0DD)]
    return b"".join(reversed(headers)) + b"".join(ends) * (depth if undefined else 0)


def element_header(
    tag: int, vr: str, length: int, order: str = "<", implicit: bool = False
) -> bytes:
    group, number = tag >> 16, tag & 0xFFFF
    if implicit:
        return struct.pack(f"{order}HHI", group, number, length)
    if vr in LONG_VRS:
        return struct.pack(f"{order}HH2s2xI", group, number, vr.encode(), length)
    return struct.pack(f"{order}HH2sH", group, number, vr.encode(), length)


def padded(vr: str, value: bytes) -> bytes:
    pad = b"\0" if vr in ("UI", "OB", "UN") else b" "
    return value + pad * (len(value) % 2)


def text_elements(
    values: Mapping[str, str | bytes | None], charset: str = "latin-1"
) -> list[Element]:
    """Return elements of keyword → text, raw bytes (taken as they are) or None (zero length), in
    order of tag."""
    elements: list[Element] = []
    for keyword, value in values.items():
        tag = tag_for_keyword(keyword)
        assert tag is not None, keyword
        vr = dictionary_VR(tag)
        if value is None:
            value = b""
        elif isinstance(value, str):
            value = padded(vr, value.encode(charset))
        elements.append((tag, vr, value))
    return sorted(elements, key=lambda element: element[0])


class Instance:
    """One generated instance: its UIDs, the texts given to it, and its bytes in any encoding."""

    def __init__(
        self,
        *,
        series: str | None = None,
        sop_instance: str | None = None,
        sop_class: str = CT_IMAGE_STORAGE,
        number: int = 1,
        pixels: int = 512,
        **values: str | bytes | None,
    ) -> None:
        """`pixels` are bytes of pixel data, of even length. `values` overrides or adds elements by
        keyword."""
        self.sop_class = sop_class
        self.sop_instance = sop_instance or new_uid()
        self.series = series or new_uid()
        self.pixels = pixels
        defaults: dict[str, str | bytes | None] = {
            "SpecificCharacterSet": "ISO_IR 100",
            "SOPClassUID": sop_class,
            "SOPInstanceUID": self.sop_instance,
            "StudyDate": "20240131",
            "AccessionNumber": "ACC1",
            "Modality": "CT",
            "StudyDescription": "Chest",
            "SeriesDescription": "Lung",
            "PatientName": "Doe^Jane",
            "PatientID": "P1",
            "PatientBirthDate": "19800102",
            "PatientSex": "F",
            "PatientAge": "044Y",
            "ProtocolName": "Routine",
            "StudyInstanceUID": f"{self.series}.0",
            "SeriesInstanceUID": self.series,
            "SeriesNumber": "3",
            "InstanceNumber": str(number),
        }
        self.values = defaults | values

    def elements(self, omit: Sequence[str] = ()) -> list[Element]:
        present = {keyword: text for keyword, text in self.values.items() if keyword not in omit}
        # A repeating pattern of odd length: a lost or moved block of any power of two is noticed.
        pattern = bytes(range(251))
        pixels = (pattern * (self.pixels // len(pattern) + 1))[: self.pixels]
        return [*text_elements(present), (PIXEL_DATA, "OW", pixels)]

    def encode(self, transfer_syntax: str, omit: Sequence[str] = ()) -> bytes:
        return encode(self.elements(omit), transfer_syntax)


def vector_data_set(vector: Mapping[str, Any], transfer_syntax: str, sop_class: str) -> bytes:
    """Return a vector's data set, as the vector's conventions say."""
    given = vector["input"]
    values: dict[str, str | bytes | None] = {"SOPClassUID": sop_class, **given["elements"]}
    for keyword, raw in given.get("elements_raw_hex", {}).items():
        values[keyword] = bytes.fromhex(raw)
    if "SpecificCharacterSet" in given:
        values["SpecificCharacterSet"] = given["SpecificCharacterSet"]
    elements = text_elements(values)
    if vector["name"] == "PatientID sent as UN in Explicit VR":
        elements = sorted([*elements, (0x00100020, "UN", b"P1")], key=lambda element: element[0])
    return encode(elements, transfer_syntax)


def part_10(instance: Instance, transfer_syntax: str) -> bytes:
    """Encode a file as a PACS stores it, for senders that read files (PS3.10 7.1)."""
    meta = [
        (0x00020001, "OB", b"\0\1"),
        (0x00020002, "UI", padded("UI", instance.sop_class.encode())),
        (0x00020003, "UI", padded("UI", instance.sop_instance.encode())),
        (0x00020010, "UI", padded("UI", transfer_syntax.encode())),
        (0x00020012, "UI", padded("UI", b"1.2.826.0.1.3680043.8.498.7")),
    ]
    group = b"".join(_encode_element(element, "<", False, False) for element in meta)
    length = _encode_element((0x00020000, "UL", struct.pack("<I", len(group))), "<", False, False)
    return bytes(128) + b"DICM" + length + group + instance.encode(transfer_syntax)
