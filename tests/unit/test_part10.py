"""The header that precedes each data set (PS3.10 7.1, decision 23)."""

from __future__ import annotations

from io import BytesIO

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxidicom.constants import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from oxidicom.store.part10 import file_header

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"


def elements(header: bytes) -> dict[int, tuple[str, bytes]]:
    """Read by hand: element number → VR and value."""
    assert header[:128] == bytes(128)
    assert header[128:132] == b"DICM"
    found: dict[int, tuple[str, bytes]] = {}
    position = 132
    while position < len(header):
        group = int.from_bytes(header[position : position + 2], "little")
        element = int.from_bytes(header[position + 2 : position + 4], "little")
        vr = header[position + 4 : position + 6].decode()
        start = position + (12 if vr == "OB" else 8)
        size = header[position + 8 : start] if vr == "OB" else header[position + 6 : start]
        position = start + int.from_bytes(size, "little")
        assert group == 2
        assert element not in found
        assert not found or element > max(found)
        found[element] = (vr, header[start:position])
        assert len(found[element][1]) == position - start, "a value beyond the end"
        assert len(found[element][1]) % 2 == 0
    assert position == len(header)
    return found


def test_every_element_of_the_header() -> None:
    header = file_header(CT, "1.2.3", EXPLICIT, "AET")
    found = elements(header)
    group_length = len(header) - 132 - 12
    assert found == {
        0x0000: ("UL", group_length.to_bytes(4, "little")),
        0x0001: ("OB", b"\0\1"),
        0x0002: ("UI", CT.encode() + b"\0"),
        0x0003: ("UI", b"1.2.3\0"),
        0x0010: ("UI", EXPLICIT.encode() + b"\0"),
        0x0012: (
            "UI",
            IMPLEMENTATION_CLASS_UID.encode() + b"\0" * (len(IMPLEMENTATION_CLASS_UID) % 2),
        ),
        0x0013: (
            "SH",
            IMPLEMENTATION_VERSION_NAME.encode() + b" " * (len(IMPLEMENTATION_VERSION_NAME) % 2),
        ),
        0x0016: ("AE", b"AET "),
    }


@pytest.mark.parametrize("uid", ["1.2.3", "1.2.34", "1" * 64, "1" * 63])
@pytest.mark.parametrize("aet", ["A", "AB", "A B C", "SIXTEEN_LETTERS_"])
def test_pydicom_reads_it(uid: str, aet: str) -> None:
    header = file_header(CT, uid, EXPLICIT, aet)
    assert len(header) < 700
    meta = pydicom.dcmread(BytesIO(header)).file_meta
    assert meta.FileMetaInformationGroupLength == len(header) - 144
    assert meta.FileMetaInformationVersion == b"\0\1"
    assert meta.MediaStorageSOPClassUID == CT
    assert meta.MediaStorageSOPInstanceUID == uid
    assert meta.TransferSyntaxUID == EXPLICIT
    assert meta.SourceApplicationEntityTitle == aet
    assert meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
    assert meta.ImplementationVersionName == IMPLEMENTATION_VERSION_NAME


@given(st.text(max_size=80), st.text(max_size=80), st.text(max_size=80), st.text(max_size=20))
def test_the_header_is_well_formed_for_any_names(
    sop_class: str, sop_instance: str, transfer_syntax: str, aet: str
) -> None:
    found = elements(file_header(sop_class, sop_instance, transfer_syntax, aet))
    assert len(found) == 8
    for element, text in ((2, sop_class), (3, sop_instance), (0x10, transfer_syntax)):
        value = text.encode("latin-1", "replace")
        assert found[element][1] == value + b"\0" * (len(value) % 2)


@pytest.mark.parametrize("hostile", ["\ud800", "\0", "…", "1.2\\3", "\n", ""])
def test_hostile_characters(hostile: str) -> None:
    assert len(elements(file_header(hostile, hostile, hostile, hostile))) == 8


@pytest.mark.parametrize("length", [0xFFFD, 0xFFFE, 0xFFFF, 0x10000, 250_000])
def test_uids_too_long_for_two_bytes_of_length_are_cut(length: int) -> None:
    found = elements(file_header("1" * length, "2" * length, EXPLICIT, "AET"))
    assert found[3][1].rstrip(b"\0") == b"2" * min(length, 0xFFFE)
