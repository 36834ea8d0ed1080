"""What the benchmark's senders put on the wire, read by independent libraries."""

from __future__ import annotations

import struct
from io import BytesIO

import pydicom
import pytest
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ, P_DATA_TF

from benchmarks import encoding, instances
from benchmarks.rows import other_contexts

EXPLICIT = encoding.EXPLICIT_VR_LITTLE_ENDIAN
IMPLICIT = encoding.IMPLICIT_VR_LITTLE_ENDIAN

HEAD = 2000
"""Bytes that certainly hold the tags of a data set."""


def pdus(stream: bytes) -> list[bytes]:
    parted = []
    while stream:
        (length,) = struct.unpack_from(">I", stream, 2)
        parted.append(stream[: 6 + length])
        stream = stream[6 + length :]
    return parted


def messages(stream: bytes) -> tuple[bytes, bytes]:
    """Return command and data set of one instance, every PDU read by pynetdicom."""
    command, data_set = b"", b""
    for pdu in pdus(stream):
        decoded = P_DATA_TF()
        decoded.decode(pdu)
        (item,) = decoded.presentation_data_value_items
        control, fragment = item.presentation_data_value[0], item.presentation_data_value[1:]
        if control & encoding.COMMAND:
            command += fragment
        else:
            data_set += fragment
    assert control == encoding.LAST
    return command, data_set


def test_the_association_request_is_as_pynetdicom_reads_it() -> None:
    request = A_ASSOCIATE_RQ()
    request.decode(encoding.associate_rq("ChRIS", "BENCHMARK", IMPLICIT))
    assert request.called_ae_title.strip() == "ChRIS"
    assert request.calling_ae_title.strip() == "BENCHMARK"
    (context,) = request.presentation_context
    assert context.abstract_syntax == encoding.CT_IMAGE_STORAGE
    assert context.transfer_syntax == [IMPLICIT]


def test_128_contexts_are_proposed_each_for_another_service() -> None:
    request = A_ASSOCIATE_RQ()
    request.decode(encoding.associate_rq("ChRIS", "BENCHMARK", EXPLICIT, other_contexts(127)))
    contexts = request.presentation_context
    assert [context.context_id for context in contexts] == list(range(1, 256, 2))
    assert contexts[0].abstract_syntax == encoding.CT_IMAGE_STORAGE
    assert len({context.abstract_syntax for context in contexts}) == 128


def answer(limit: int, result: int = 0) -> bytes:
    request = A_ASSOCIATE_RQ()
    request.decode(encoding.associate_rq("ChRIS", "BENCHMARK", EXPLICIT))
    primitive = request.to_primitive()
    primitive.result = 0
    primitive.user_information[0].maximum_length_received = limit
    (context,) = primitive.presentation_context_definition_list
    context.result = result
    primitive.presentation_context_definition_results_list = [context]
    accepted = A_ASSOCIATE_AC()
    accepted.from_primitive(primitive)
    encoded = accepted.encode()
    assert isinstance(encoded, bytes)
    return encoded


@pytest.mark.parametrize(
    ("limit", "expected"), [(28672, 28672), (0, encoding.LONGEST_PDU), (1 << 24, 1 << 20)]
)
def test_the_peers_limit_is_found_in_its_answer(limit: int, expected: int) -> None:
    assert encoding.max_length_of(answer(limit)) == expected


def test_a_refusal_is_no_association() -> None:
    with pytest.raises(ValueError, match="not accepted: result 3"):
        encoding.max_length_of(answer(16384, result=3))
    with pytest.raises(ValueError, match="type 3"):
        encoding.max_length_of(bytes([3, 0, 0, 0, 0, 4, 0, 1, 1, 7]))


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
@pytest.mark.parametrize("max_length", [HEAD, 16384, 131072])
def test_every_instance_is_whole_and_its_own(max_length: int, syntax: str) -> None:
    size = 50_000
    series = instances.encode_series(7, 3, size, max_length, syntax)
    for number in range(3):
        stream = series.stream(number)
        assert all(len(pdu) - 6 <= max_length for pdu in pdus(stream))
        command, encoded = messages(stream)
        assert len(encoded) == size == series.data_set_bytes
        request = pydicom.dcmread(BytesIO(command), force=True)
        data_set = pydicom.dcmread(BytesIO(_part_10(encoded, syntax)))
        uid = instances.sop_instance_uid(7, number)
        assert request.AffectedSOPInstanceUID == data_set.SOPInstanceUID == uid
        assert request.MessageID == number + 1
        assert data_set.InstanceNumber == instances.FIRST_NUMBER + number
        assert data_set.SeriesInstanceUID.startswith(data_set.StudyInstanceUID)
        assert data_set.PatientID == "PID0000000007"
        assert set(data_set.PixelData) == {0x5A}


@pytest.mark.parametrize("fragments", [1, 2, 3, 7])
def test_an_instance_that_fills_its_last_pdu_is_whole(fragments: int) -> None:
    series = instances.encode_series(1, 1, fragments * 2000, 2006, EXPLICIT)
    assert len(pdus(series.stream(0))) == 1 + fragments
    assert len(messages(series.stream(0))[1]) == fragments * 2000


def test_a_large_instance_is_whole_though_its_pieces_are_few() -> None:
    size = 20_000_000
    series = instances.encode_series(1, 1, size, 131072, EXPLICIT)
    assert sum(map(len, {id(piece): piece for piece in series.rest}.values())) < size / 2
    _, encoded = messages(series.stream(0))
    assert len(encoded) == size
    data_set = pydicom.dcmread(BytesIO(_part_10(encoded, EXPLICIT)))
    assert data_set.PixelData.strip(b"\x5a") == b""


def test_an_instance_too_small_for_its_tags_is_refused() -> None:
    with pytest.raises(ValueError, match="too few"):
        instances.encode_series(1, 1, 500, 16384, EXPLICIT)
    with pytest.raises(ValueError, match="too few"):
        instances.encode_series(1, 1, 50_000, 500, EXPLICIT)


def _part_10(data_set: bytes, transfer_syntax: str) -> bytes:
    syntax = encoding.even(transfer_syntax.encode(), b"\0")
    meta = struct.pack("<HH2sH", 2, 0x10, b"UI", len(syntax)) + syntax
    group_length = struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(meta))
    return bytes(128) + b"DICM" + group_length + meta + data_set


def response(message_id: int, status: int) -> bytes:
    elements = b"".join(
        struct.pack("<HHIH", 0, element, 2, value)
        for element, value in (
            (0x0100, 0x8001),
            (0x0120, message_id),
            (0x0800, 0x0101),
            (0x0900, status),
        )
    )
    return b"".join(encoding.p_data(elements, encoding.COMMAND, 16384))


@pytest.mark.parametrize("status", [0x0000, 0xA700, 0xC000])
@pytest.mark.parametrize("message_id", [1, 0x0208, 0x0209, 0x0900])
def test_the_status_is_read_whatever_the_message_id_looks_like(
    message_id: int, status: int
) -> None:
    stale = b"\0\0\0\x09\x02\0\0\0\xff\xff" * 8  # what an earlier, longer answer left behind
    assert encoding.status_of(bytearray(response(message_id, status) + stale)) == status


def test_an_abort_has_no_status() -> None:
    abort = bytes([7, 0, 0, 0, 0, 4, 0, 0, 2, 6])
    assert encoding.status_of(abort.ljust(64, b"\0")) is None
