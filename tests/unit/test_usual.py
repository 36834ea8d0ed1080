"""What the fast path reads and writes by itself, against the code that knows everything."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxidicom._dimse import success, usual_file_name, usual_store_command
from oxidicom.errors import PeerError
from oxidicom.store.paths import instance_file_name
from oxidicom.store.tags import text_of
from oxidicom.wire.dimse import decode_command, encode_store_response
from oxidicom.wire.pdus import p_data
from tests.support.raw_peer import CT_IMAGE_STORAGE, c_store_rq, command_set, number, uid

LONGEST_UID = "1." + "2" * 62
UIDS = st.one_of(
    st.from_regex(r"[0-9.]{1,66}", fullmatch=True),
    st.sampled_from(["1.2.3", "1.2.3 ", " 1.2.3", "1.2.3\0\0", "", LONGEST_UID, "1.2.x"]),
).map(str.encode)
ELEMENTS = st.one_of(
    st.tuples(st.sampled_from([0x0002, 0x1000]), UIDS),
    st.tuples(
        st.sampled_from([0x0100, 0x0110, 0x0700, 0x0800]),
        st.one_of(st.sampled_from([number(1), number(0x0101)]), st.binary(max_size=4)),
    ),
    st.tuples(st.sampled_from([0x0000, 0x0001, 0x1001, 0x1030, 0x1031]), st.binary(max_size=6)),
)
USUAL = [
    (0x0002, uid(CT_IMAGE_STORAGE)),
    (0x0100, number(1)),
    (0x0110, number(7)),
    (0x0700, number(0)),
    (0x0800, number(1)),
    (0x1000, uid("1.2.3.4")),
]
COMMANDS = st.one_of(
    st.lists(ELEMENTS, max_size=3).flatmap(lambda more: st.permutations([*USUAL, *more])),
    st.lists(ELEMENTS, max_size=8),
).map(lambda elements: command_set(*elements))


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    command = bytearray(draw(COMMANDS))
    for _ in range(draw(st.integers(0, 2))):
        command[draw(st.integers(0, len(command) - 1))] = draw(st.integers(0, 255))
    return bytes(command[: draw(st.integers(0, len(command)))])


@given(st.one_of(COMMANDS, damaged()))
def test_what_is_read_of_a_command_is_what_it_says(command: bytes) -> None:
    read = usual_store_command(command)
    if read is None:
        return
    known = decode_command(command)
    assert known.field == 1
    assert known.has_data_set
    assert read == (known.message_id, known.sop_class_uid, known.sop_instance_uid)


@given(st.one_of(COMMANDS, damaged()), st.integers(0, 255))
def test_its_response_is_the_one_that_would_be_encoded(command: bytes, context_id: int) -> None:
    if usual_store_command(command) is None:
        with pytest.raises(ValueError, match="not a usual"):
            success(context_id, command)
        return
    known = decode_command(command)
    response = encode_store_response(known.message_id, known.sop_class_uid, known.sop_instance_uid)
    assert success(context_id, command) == p_data(context_id, response, 0)


@pytest.mark.parametrize("instance", ["1.2.3", "1.2.34", LONGEST_UID])
@pytest.mark.parametrize("message_id", [0, 7, 0xFFFF])
@pytest.mark.parametrize(
    "extra", [(), ((0x1030, b"MOVER "), (0x1031, number(9)))], ids=["store", "C-MOVE's"]
)
def test_what_senders_write_is_usual(
    instance: str, message_id: int, extra: tuple[tuple[int, bytes], ...]
) -> None:
    command = c_store_rq(CT_IMAGE_STORAGE, instance, message_id, extra=extra)
    assert usual_store_command(command) == (message_id, CT_IMAGE_STORAGE, instance)


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
        command_set(USUAL[0], (0x0100, number(0x0030)), *USUAL[2:]),
    ],
)
def test_all_else_is_left_to_others(command: bytes) -> None:
    assert usual_store_command(command) is None


def test_others_judge_what_is_left_to_them() -> None:
    with pytest.raises(PeerError):
        decode_command(c_store_rq(None, "1.2.3"))


NUMBERS = st.one_of(
    st.from_regex(rb" {0,2}[0-9]{1,11} {0,2}", fullmatch=True),
    st.sampled_from([b"", b" ", b"-1", b"+1", b"1.5", b"0", b"00012", b"1\\2", b"1\0"]),
    st.binary(max_size=12),
)


@given(NUMBERS, st.one_of(UIDS, st.binary(min_size=1, max_size=70)))
def test_a_files_name_is_the_one_it_would_get(raw_number: bytes, raw_uid: bytes) -> None:
    name = usual_file_name(raw_number, raw_uid)
    if name is None:
        return
    instance = text_of("SOPInstanceUID", raw_uid, "UI")
    assert instance is not None
    number = text_of("InstanceNumber", raw_number, "IS")
    assert name == instance_file_name(number, instance.strip(" \0"))


def test_names_of_usual_values() -> None:
    assert usual_file_name(b"7 ", b"1.2.3\0") == "0007-1.2.3.dcm"
    assert usual_file_name(b" 123456789", b"1.2") == "123456789-1.2.dcm"
    assert usual_file_name(b"0", b"1.2") == "0000-1.2.dcm"
    for raw_number in (b"1234567890", b"", b"-1", b"1 2"):
        assert usual_file_name(raw_number, b"1.2") is None
