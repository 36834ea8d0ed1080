"""Command sets and the PDUs that carry our responses, by vectors and against pynetdicom."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from struct import pack
from typing import Any

import pytest
from pydicom.uid import UID
from pynetdicom import dimse_messages, dimse_primitives, pdu
from pynetdicom.dsutils import decode as decode_by_pydicom

from oxidicom.constants import AbortReason
from oxidicom.errors import PeerError
from oxidicom.wire.dimse import (
    Command,
    decode_command,
    encode_echo_response,
    encode_store_response,
    encode_unsupported_response,
)
from oxidicom.wire.pdus import encode_abort, encode_associate_rj, encode_release_rp, p_data

WIRE: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "support" / "vectors.json").read_text()
)["wire"]
MR = "1.2.840.10008.5.1.4.1.1.4"
INSTANCE = "1.2.826.0.1.3680043.8.498.3"
STORE = Command(0x0001, 7, 0, MR, INSTANCE, True)


def element(number: int, value: bytes) -> bytes:
    return pack("<HHI", 0, number, len(value)) + value


def us(number: int, value: int) -> bytes:
    return element(number, pack("<H", value))


def store_elements(
    sop_class: bytes = b"1.2.840.10008.5.1.4.1.1.4\0",
    sop_instance: bytes = b"1.2.826.0.1.3680043.8.498.3\0",
) -> dict[int, bytes]:
    """In the order in which the standard wants them."""
    return {
        0x0002: element(0x0002, sop_class),
        0x0100: us(0x0100, 0x0001),
        0x0110: us(0x0110, 7),
        0x0700: us(0x0700, 0),
        0x0800: us(0x0800, 0x0001),
        0x1000: element(0x1000, sop_instance),
    }


def command_set(elements: dict[int, bytes]) -> bytes:
    body = b"".join(elements.values())
    return element(0, pack("<I", len(body))) + body


def encoded_by_pynetdicom(primitive: Any, message: Any) -> bytes:
    message.primitive_to_message(primitive)
    fragments = [
        value
        for pdata in message.encode_msg(1, 0)
        for _, value in pdata.presentation_data_value_list
    ]
    return b"".join(value[1:] for value in fragments if value[0] & 1)


# ---- decode --------------------------------------------------------------------------------


def test_a_common_store_request_is_decoded() -> None:
    assert decode_command(command_set(store_elements())) == STORE


def test_a_store_request_that_pynetdicom_encodes() -> None:
    primitive = dimse_primitives.C_STORE()
    primitive.MessageID = 7
    primitive.AffectedSOPClassUID = UID(MR)
    primitive.AffectedSOPInstanceUID = UID(INSTANCE)
    primitive.Priority = 2
    primitive.DataSet = BytesIO(b"\0\0")
    assert decode_command(encoded_by_pynetdicom(primitive, dimse_messages.C_STORE_RQ())) == STORE
    primitive.MoveOriginatorApplicationEntityTitle = "MOVER"
    primitive.MoveOriginatorMessageID = 9
    assert decode_command(encoded_by_pynetdicom(primitive, dimse_messages.C_STORE_RQ())) == STORE


def test_echo_find_and_cancel_that_pynetdicom_encodes() -> None:
    echo = dimse_primitives.C_ECHO()
    echo.MessageID = 65535
    echo.AffectedSOPClassUID = UID("1.2.840.10008.1.1")
    assert decode_command(encoded_by_pynetdicom(echo, dimse_messages.C_ECHO_RQ())) == Command(
        0x0030, 65535, 0, "1.2.840.10008.1.1", "", False
    )
    find = dimse_primitives.C_FIND()
    find.MessageID = 3
    find.AffectedSOPClassUID = UID("1.2.840.10008.5.1.4.1.2.2.1")
    find.Priority = 1
    find.Identifier = BytesIO(b"\0\0")
    assert decode_command(encoded_by_pynetdicom(find, dimse_messages.C_FIND_RQ())) == Command(
        0x0020, 3, 0, "1.2.840.10008.5.1.4.1.2.2.1", "", True
    )
    cancel = dimse_primitives.C_CANCEL()
    cancel.MessageIDBeingRespondedTo = 3
    assert decode_command(encoded_by_pynetdicom(cancel, dimse_messages.C_CANCEL_RQ())) == Command(
        0x0FFF, 0, 3, "", "", False
    )


def test_the_requested_uids_of_a_normalized_request() -> None:
    action = dimse_primitives.N_ACTION()
    action.MessageID = 4
    action.RequestedSOPClassUID = UID("1.2.840.10008.1.20.1")
    action.RequestedSOPInstanceUID = UID("1.2.840.10008.1.20.1.1")
    action.ActionTypeID = 1
    assert decode_command(encoded_by_pynetdicom(action, dimse_messages.N_ACTION_RQ())) == Command(
        0x0130, 4, 0, "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1", False
    )


@pytest.mark.parametrize(
    "padded",
    [
        (MR.encode(), INSTANCE.encode()),  # odd lengths
        (f" \0{MR} ".encode(), f"{INSTANCE}\0 \0".encode()),
    ],
)
def test_uids_of_odd_length_and_padded_anyhow(padded: tuple[bytes, bytes]) -> None:
    elements = store_elements(*padded)
    assert decode_command(command_set(elements)) == STORE
    assert decode_command(b"".join(elements.values())) == STORE


def test_a_missing_or_wrong_group_length() -> None:
    body = b"".join(store_elements().values())
    assert decode_command(body) == STORE
    assert decode_command(element(0, pack("<I", 1)) + body) == STORE
    assert decode_command(element(0, b"") + body) == STORE


def test_elements_in_any_order_and_unknown_ones() -> None:
    elements = store_elements()
    shuffled = element(0x5110, b"\1\0") + b"".join(reversed(elements.values()))
    assert decode_command(shuffled + pack("<HHI", 0x0009, 0x0010, 3) + b"abc") == STORE


def test_a_repeated_element_counts_as_it_came_last() -> None:
    assert decode_command(command_set(store_elements()) + us(0x0110, 8)).message_id == 8


@pytest.mark.parametrize("data_set_type", [0x0000, 0x0001, 0x0100, 0x0102, 0xFFFF])
def test_any_data_set_type_but_one_announces_a_data_set(data_set_type: int) -> None:
    elements = store_elements() | {0x0800: us(0x0800, data_set_type)}
    assert decode_command(command_set(elements)) == STORE


def test_without_data_set_type_only_a_store_request_has_a_data_set() -> None:
    elements = store_elements()
    del elements[0x0800]
    assert decode_command(command_set(elements)) == STORE
    assert not decode_command(us(0x0100, 0x0030) + us(0x0110, 1)).has_data_set


def test_a_response_needs_no_message_id_of_its_own() -> None:
    assert decode_command(us(0x0100, 0x8001) + us(0x0120, 5)) == Command(
        0x8001, 0, 5, "", "", False
    )


@pytest.mark.parametrize("missing", [0x0002, 0x0100, 0x0110, 0x1000])
@pytest.mark.parametrize("blank", [False, True])
def test_a_store_request_without_what_it_needs(missing: int, blank: bool) -> None:
    elements = store_elements()
    if blank:
        elements[missing] = element(missing, b"")
    else:
        del elements[missing]
    with pytest.raises(PeerError) as caught:
        decode_command(command_set(elements))
    assert (caught.value.source, caught.value.reason) == (2, 6)


def test_a_store_request_without_data_set() -> None:
    elements = store_elements() | {0x0800: us(0x0800, 0x0101)}
    with pytest.raises(PeerError, match="without data set"):
        decode_command(command_set(elements))


def test_requested_uids_do_not_stand_in_for_a_store_requests_own() -> None:
    elements = store_elements()
    elements[0x0002] = element(0x0003, MR.encode())
    with pytest.raises(PeerError):
        decode_command(command_set(elements))


def test_a_blank_uid_is_a_missing_one() -> None:
    with pytest.raises(PeerError):
        decode_command(command_set(store_elements(sop_instance=b" \0")))


def test_any_other_request_without_message_id() -> None:
    with pytest.raises(PeerError):
        decode_command(us(0x0100, 0x0030))


@pytest.mark.parametrize(
    "command",
    [
        b"",
        command_set(store_elements()) + b"\0",
        command_set(store_elements())[:-1],
        us(0x0110, 1) + us(0x0100, 0x30) + pack("<HHI", 0, 0x0003, 0xFFFFFFFF),
    ],
)
def test_what_does_not_fit_is_the_peers_fault(command: bytes) -> None:
    with pytest.raises(PeerError) as caught:
        decode_command(command)
    assert caught.value.reason == AbortReason.INVALID_PDU_PARAMETER_VALUE


def test_a_command_set_cut_anywhere_is_refused() -> None:
    command = command_set(store_elements())
    for length in range(len(command)):
        with pytest.raises(PeerError):
            decode_command(command[:length])


# ---- responses -----------------------------------------------------------------------------


def test_the_references_store_response() -> None:
    vector = WIRE["c_store_rsp_dataset_hex"]
    encoded = encode_store_response(
        vector["message_id"], vector["affected_sop_class"], vector["affected_sop_instance"]
    )
    assert encoded.hex() == vector["hex"]


def test_the_references_echo_response_with_sop_class_and_message_id() -> None:
    reference = bytes.fromhex(WIRE["c_echo_rsp_dataset_hex"])
    sop_class = element(0x0002, b"1.2.840.10008.1.1\0")
    rest = reference[12:].replace(us(0x0120, 1), us(0x0120, 300))
    assert encode_echo_response(300) == command_set({0: sop_class + rest})


def read(command: bytes) -> Any:
    """By pydicom, which also checks that the order ascends and the group length is right."""
    data_set = decode_by_pydicom(BytesIO(command), True, True)
    tags = list(data_set.keys())
    assert tags == sorted(tags)
    assert data_set.CommandGroupLength == len(command) - 12
    assert len(command) % 2 == 0
    return data_set


def test_a_failure_has_comment_and_offending_element() -> None:
    comment = "Required element is missing: StudyDate"
    response = read(encode_store_response(9, MR, INSTANCE, 0xC000, comment, 0x0008_0020))
    assert response.AffectedSOPClassUID == MR
    assert response.CommandField == 0x8001
    assert response.MessageIDBeingRespondedTo == 9
    assert response.CommandDataSetType == 0x0101
    assert response.Status == 0xC000
    assert response.OffendingElement == 0x0008_0020
    assert response.ErrorComment == comment
    assert response.AffectedSOPInstanceUID == INSTANCE
    numbers = [element.tag.element for element in response]
    assert numbers == [0, 0x2, 0x100, 0x120, 0x800, 0x900, 0x901, 0x902, 0x1000]


def test_a_comment_alone_and_an_offending_element_alone() -> None:
    response = read(encode_store_response(9, MR, INSTANCE, 0xA700, "no space"))
    assert response.ErrorComment == "no space"
    assert "OffendingElement" not in response
    response = read(encode_store_response(9, MR, INSTANCE, 0xA900, offending=0x0008_0018))
    assert response.OffendingElement == 0x0008_0018
    assert "ErrorComment" not in response


@pytest.mark.parametrize(
    ("comment", "sent"), [("x" * 65, "x" * 64), ("odd", "odd"), ("naïve", "na?ve"), ("", "")]
)
def test_a_comment_is_a_long_string_of_ascii(comment: str, sent: str) -> None:
    assert (
        read(encode_store_response(1, MR, INSTANCE, 0x0110, comment)).ErrorComment or ""
    ) == sent


def test_pynetdicom_understands_a_failure() -> None:
    message: Any = dimse_messages.C_STORE_RSP()
    command = encode_store_response(9, MR, INSTANCE, 0xC000, "cannot be parsed", 0x0020_000D)
    pdata: Any = pdu.P_DATA_TF()
    pdata.decode(p_data(5, command, 0))
    assert message.decode_msg(pdata.to_primitive())
    primitive = message.message_to_primitive()
    assert primitive.Status == 0xC000
    assert primitive.MessageIDBeingRespondedTo == 9
    assert primitive.ErrorComment == "cannot be parsed"


@pytest.mark.parametrize(
    ("field", "answer"), [(0x0020, 0x8020), (0x0130, 0x8130), (0x1234, 0x9234), (0x8001, 0x8001)]
)
def test_an_unknown_operation_is_refused(field: int, answer: int) -> None:
    request = Command(field, 77, 0, "1.2.3", "", False)
    response = read(encode_unsupported_response(request))
    assert response.CommandField == answer
    assert response.MessageIDBeingRespondedTo == 77
    assert response.CommandDataSetType == 0x0101
    assert response.Status == 0x0211
    assert response.AffectedSOPClassUID == "1.2.3"
    assert "AffectedSOPInstanceUID" not in response


def test_an_unknown_operation_without_uids() -> None:
    response = read(encode_unsupported_response(Command(0x0150, 1, 0, "", "", False)))
    assert "AffectedSOPClassUID" not in response


# ---- PDUs ----------------------------------------------------------------------------------


def test_fixed_pdus() -> None:
    assert encode_associate_rj(2, 3, 2).hex(" ") == "03 00 00 00 00 04 00 02 03 02"
    assert encode_release_rp().hex(" ") == "06 00 00 00 00 04 00 00 00 00"
    assert encode_abort(2, 6).hex(" ") == "07 00 00 00 00 04 00 00 02 06"


def test_fixed_pdus_that_pynetdicom_decodes() -> None:
    rejection: Any = pdu.A_ASSOCIATE_RJ()
    rejection.decode(encode_associate_rj(1, 2, 2))
    assert (rejection.result, rejection.source, rejection.reason_diagnostic) == (1, 2, 2)
    abort: Any = pdu.A_ABORT_RQ()
    abort.decode(encode_abort(2, 1))
    assert (abort.source, abort.reason_diagnostic) == (2, 1)


def fragments(encoded: bytes) -> list[tuple[int, int, int, bytes]]:
    """(PDU length, context, control, fragment) of PDUs of one PDV each."""
    found = []
    while encoded:
        assert encoded[:2] == b"\x04\x00"
        length = int.from_bytes(encoded[2:6])
        assert int.from_bytes(encoded[6:10]) == length - 4
        found.append((length, encoded[10], encoded[11], encoded[12 : 6 + length]))
        encoded = encoded[6 + length :]
    return found


@pytest.mark.parametrize("limit", [0, 106, 107, 16384])
def test_a_command_is_one_pdv_where_it_fits(limit: int) -> None:
    assert fragments(p_data(3, b"c" * 100, limit)) == [(106, 3, 3, b"c" * 100)]


@pytest.mark.parametrize("limit", [7, 8, 9, 10, 50, 104, 105])
def test_a_command_is_cut_to_the_peers_limit(limit: int) -> None:
    command = bytes(range(100))
    pdus = fragments(p_data(3, command, limit))
    assert len(pdus) > 1
    assert all(length <= limit for length, *_ in pdus)
    assert all(context == 3 for _, context, *_ in pdus)
    assert [control for _, _, control, _ in pdus] == [1] * (len(pdus) - 1) + [3]
    assert b"".join(fragment for *_, fragment in pdus) == command
    if limit > 7:
        assert all(len(fragment) % 2 == 0 for *_, fragment in pdus)


@pytest.mark.parametrize("limit", range(1, 7))
def test_a_limit_without_room_gets_a_byte_at_a_time(limit: int) -> None:
    pdus = fragments(p_data(3, b"abc", limit))
    assert [fragment for *_, fragment in pdus] == [b"a", b"b", b"c"]
    assert [control for _, _, control, _ in pdus] == [1, 1, 3]
