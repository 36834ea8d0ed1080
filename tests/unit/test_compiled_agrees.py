"""Each compiled reader and writer of `_dimse` agrees with its general form."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import oxidicom
from oxidicom._dimse import HeaderTemplate, file_name, read_store_request, success_response
from oxidicom.constants import CommandField, Encoding
from oxidicom.store.paths import PATH_LIMIT, instance_file_name
from oxidicom.store.tags import text_of
from oxidicom.store.write_policy import SLOW_CALL_NS
from oxidicom.wire.dimse import decode_command, decode_general_command, encode_response
from tests.support.raw_peer import CT_IMAGE_STORAGE, c_store_rq, command_set, number, uid

LONGEST_UID = "1." + "2" * 62
UIDS = st.one_of(
    st.from_regex(r"[0-9.]{1,66}", fullmatch=True),
    st.sampled_from(
        ["1.2.3", "1.2.3 ", " 1.2.3", "1.2.3\0\0", "1.2.3 \0", "", LONGEST_UID, "1.2.x"]
    ),
).map(str.encode)
ELEMENTS = st.one_of(
    st.tuples(st.sampled_from([0x0002, 0x1000]), UIDS),
    st.tuples(
        st.sampled_from([0x0100, 0x0110, 0x0700, 0x0800]),
        st.one_of(st.sampled_from([number(1), number(0x0101)]), st.binary(max_size=4)),
    ),
    st.tuples(st.sampled_from([0x0000, 0x0001, 0x1001, 0x1030, 0x1031]), st.binary(max_size=6)),
)
COMMON = [
    (0x0002, uid(CT_IMAGE_STORAGE)),
    (0x0100, number(1)),
    (0x0110, number(7)),
    (0x0700, number(0)),
    (0x0800, number(1)),
    (0x1000, uid("1.2.3.4")),
]
COMMANDS = st.one_of(
    st.lists(ELEMENTS, max_size=3).flatmap(lambda more: st.permutations([*COMMON, *more])),
    st.lists(ELEMENTS, max_size=8),
).map(lambda elements: command_set(*elements))


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    command = bytearray(draw(COMMANDS))
    for _ in range(draw(st.integers(0, 2))):
        command[draw(st.integers(0, len(command) - 1))] = draw(st.integers(0, 255))
    return bytes(command[: draw(st.integers(0, len(command)))])


@given(st.one_of(COMMANDS, damaged()))
def test_a_store_request_is_decoded_as_by_the_general_decoder(command: bytes) -> None:
    read = read_store_request(command)
    if read is None:
        return
    decoded = decode_general_command(command)
    assert decoded.field == CommandField.C_STORE_RQ
    assert decoded.has_data_set
    assert read == (decoded.message_id, decoded.sop_class_uid, decoded.sop_instance_uid)
    assert decoded == decode_command(command)


@given(st.integers(0, 0xFFFF), *[UIDS.map(bytes.decode)] * 2)
def test_a_success_response_is_encoded_as_by_the_general_encoder(
    message_id: int, sop_class: str, sop_instance: str
) -> None:
    response = success_response(message_id, sop_class, sop_instance)
    if response is None:
        return
    assert response == encode_response(
        CommandField.C_STORE_RSP, message_id, sop_class, sop_instance
    )


@pytest.mark.parametrize("other", ["", "1.2.3 ", "1.2.3\0", "1.2.\u0663", LONGEST_UID + "3"])
def test_a_response_with_other_uids_is_left_to_the_general_encoder(other: str) -> None:
    assert success_response(1, CT_IMAGE_STORAGE, other) is None
    assert success_response(1, other, "1.2.3") is None
    assert success_response(1, CT_IMAGE_STORAGE, LONGEST_UID) is not None


@pytest.mark.parametrize("instance", ["1.2.3", "1.2.34", LONGEST_UID])
@pytest.mark.parametrize("message_id", [0, 7, 0xFFFF])
@pytest.mark.parametrize(
    "extra", [(), ((0x1030, b"MOVER "), (0x1031, number(9)))], ids=["store", "C-MOVE's"]
)
def test_what_senders_write_is_read_by_the_compiled_reader(
    instance: str, message_id: int, extra: tuple[tuple[int, bytes], ...]
) -> None:
    command = c_store_rq(CT_IMAGE_STORAGE, instance, message_id, extra=extra)
    assert read_store_request(command) == (message_id, CT_IMAGE_STORAGE, instance)


@pytest.mark.parametrize(
    "command",
    [
        b"",
        c_store_rq(None, "1.2.3"),
        c_store_rq(CT_IMAGE_STORAGE, None),
        c_store_rq(CT_IMAGE_STORAGE, "1.2.3", None),
        c_store_rq(CT_IMAGE_STORAGE, "1.2.3", data_set=False),
        c_store_rq(CT_IMAGE_STORAGE, LONGEST_UID + "3"),
        c_store_rq(CT_IMAGE_STORAGE, "1.2.3")[:-1],
        c_store_rq(CT_IMAGE_STORAGE, "1.2.3") + struct.pack("<HHI", 0, 0x0901, 0),
        c_store_rq(CT_IMAGE_STORAGE, "1.2.3") + struct.pack("<HHI", 0, 0x0700, 0xFFFFFFFF),
        command_set(COMMON[0], (0x0100, number(0x0030)), *COMMON[2:]),
    ],
)
def test_other_commands_are_left_to_the_general_decoder(command: bytes) -> None:
    assert read_store_request(command) is None


def test_the_limits_of_the_fast_path_are_those_of_the_general_path() -> None:
    text = (Path(oxidicom.__file__).parent / "_fastpath.pyx").read_text()
    found = {
        name: int(value)
        for name, value in re.findall(r"^.*\b([A-Z_]{6,}) = ([0-9_]+)\b", text, re.MULTILINE)
    }
    assert found["MAX_PATH_LENGTH"] == PATH_LIMIT
    assert found["EXPLICIT_BE"] == Encoding.EXPLICIT_BE
    assert found["SLOW_CALL_NS"] == SLOW_CALL_NS


NUMBERS = st.one_of(
    st.from_regex(rb" {0,2}[0-9]{1,11} {0,2}", fullmatch=True),
    st.sampled_from([b"", b" ", b"-1", b"+1", b"1.5", b"0", b"00012", b"1\\2", b"1\0"]),
    st.binary(max_size=12),
)


@given(NUMBERS, st.one_of(UIDS, st.binary(min_size=1, max_size=70)))
def test_a_file_name_is_the_one_in_general_form(raw_number: bytes, raw_uid: bytes) -> None:
    named = file_name(raw_number, raw_uid)
    if named is None:
        return
    instance = text_of("SOPInstanceUID", raw_uid, "UI")
    assert instance is not None
    number = text_of("InstanceNumber", raw_number, "IS")
    assert named == (instance.strip(" \0"), instance_file_name(number, instance))


def test_file_names_of_common_values() -> None:
    assert file_name(b"7 ", b"1.2.3\0") == ("1.2.3", "0007-1.2.3.dcm")
    assert file_name(b" 123456789", b"1.2") == ("1.2", "123456789-1.2.dcm")
    assert file_name(b"0", b"1.2") == ("1.2", "0000-1.2.dcm")
    for raw_number in (b"1234567890", b"", b"-1", b"1 2", None):
        assert file_name(raw_number, b"1.2") is None
    for raw_uid in (b"1.2 \0", b"1.2 ", b"1.2\0 ", b" 1.2"):
        assert file_name(b"7", raw_uid) is None, "its padding is not that of a UID"
    assert file_name(b"7", None) is None


@given(st.binary(max_size=20), st.binary(max_size=70), st.binary(max_size=20))
def test_a_header_is_its_parts_around_the_padded_uid(
    before: bytes, uid: bytes, after: bytes
) -> None:
    padded = uid + bytes(len(uid) % 2)
    template = HeaderTemplate(before, len(padded), after)
    assert template.header(uid) == template.header(padded) == before + padded + after
    with pytest.raises(ValueError, match="in a header for"):
        template.header(uid + b"12")
