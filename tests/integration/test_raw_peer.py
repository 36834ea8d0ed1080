"""Framing and DIMSE rules over a real port, by a peer that does what no sender should.

PS3.8 9.3.5 and annex E, PS3.7 chapter 9 (decisions 10, 14, 17 to 19).
"""

from __future__ import annotations

import contextlib
import statistics
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.data import Instance, element_header
from tests.support.raw_peer import (
    BIG_ENDIAN,
    C_CANCEL_RQ,
    CT_IMAGE_STORAGE,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    P_DATA_TF,
    VERIFICATION,
    Context,
    RawPeer,
    abort,
    associate_rq,
    c_echo_rq,
    c_store_rq,
    command_set,
    fragments,
    number,
    p_data,
    pdu,
    pdv,
    release_rq,
    store_message,
    uid,
)
from tests.support.receiver import Receiver, wait_until

STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"


@pytest.fixture(scope="module", params=["inline", "threads"])
def receiver(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Receiver]:
    """Both ways to write keep the same rules."""
    with Receiver(tmp_path_factory.mktemp("files"), OXIDICOM_WRITE_MODE=request.param) as receiver:
        yield receiver


@pytest.fixture(autouse=True)
def next_association_works(receiver: Receiver) -> Iterator[None]:
    """Whatever a peer did, the next one stores, and nothing half is left."""
    yield
    instance = Instance()
    with RawPeer(receiver.port) as peer:
        peer.associate()
        assert peer.store(instance.sop_instance, instance.encode(EXPLICIT)).status == 0
        peer.release()
    assert receiver.data_set_of(instance.sop_instance) == instance.encode(EXPLICIT)
    wait_until(lambda: not receiver.leftovers(), "no temporary file")


@pytest.fixture
def peer(receiver: Receiver) -> Iterator[RawPeer]:
    """An association with CT Image Storage (1) and Verification (3)."""
    with RawPeer(receiver.port) as peer:
        peer.associate()
        yield peer


def request(instance: Instance, message_id: int = 1) -> bytes:
    return c_store_rq(instance.sop_class, instance.sop_instance, message_id)


def assert_stored(peer: RawPeer, receiver: Receiver, instance: Instance) -> None:
    """The response to what was just sent is Success, and the file is what was sent."""
    assert peer.response().status == 0
    assert receiver.data_set_of(instance.sop_instance) == instance.encode(EXPLICIT)


# ---- cuts ---------------------------------------------------------------------------------


def test_cut_between_any_two_octets(peer: RawPeer, receiver: Receiver) -> None:
    instance = Instance(pixels=40)
    message = store_message(1, request(instance), instance.encode(EXPLICIT), max_length=200)
    for cut in range(1, len(message)):
        peer.send(message[:cut])
        peer.send(message[cut:])
        assert_stored(peer, receiver, instance)
    peer.release()


def test_one_octet_a_segment(receiver: Receiver) -> None:
    instance = Instance(pixels=300)
    with RawPeer(receiver.port) as peer:
        peer.send_cut(associate_rq([Context(1, CT_IMAGE_STORAGE, [EXPLICIT])]))
        peer.expect(2)
        peer.send_cut(store_message(1, request(instance), instance.encode(EXPLICIT)))
        assert_stored(peer, receiver, instance)
        peer.send_cut(release_rq())
        peer.expect(6)


@pytest.mark.parametrize("segment", [3, 7, 1460, 65_537, 1_000_003])
@pytest.mark.parametrize("max_length", [128, 4096, 65_536, 131_072])
def test_segments_and_pdus_of_any_size(
    peer: RawPeer, receiver: Receiver, segment: int, max_length: int
) -> None:
    instance = Instance(pixels=300_000 if segment > 1000 and max_length > 1000 else 9000)
    message = store_message(1, request(instance), instance.encode(EXPLICIT), max_length=max_length)
    peer.send_cut(message, segment)
    assert_stored(peer, receiver, instance)


def test_message_and_release_in_one_segment(receiver: Receiver) -> None:
    instance = Instance()
    message = store_message(1, request(instance, 7), instance.encode(EXPLICIT), max_length=4096)
    with RawPeer(receiver.port) as peer:
        peer.associate()
        peer.send(p_data(pdv(3, c_echo_rq(6), command=True, last=True)) + message)
        assert peer.response().message_id == 6
        assert_stored(peer, receiver, instance)
        peer.send(p_data(pdv(3, c_echo_rq(8), command=True, last=True)) + release_rq())
        assert peer.response().message_id == 8
        peer.expect(6)


@pytest.mark.parametrize("pixels", [100, 500_000])
def test_release_without_waiting_for_the_response(
    peer: RawPeer, receiver: Receiver, pixels: int
) -> None:
    # PS3.8 table 9-10, Sta8: the response may still be sent, and comes first.
    instance = Instance(pixels=pixels)
    peer.send(store_message(1, request(instance), instance.encode(EXPLICIT)) + release_rq())
    assert_stored(peer, receiver, instance)
    peer.expect(6)
    assert receiver.wait_for_registration(instance.series)["ndicom"] == 1


def test_end_of_file_before_the_response(peer: RawPeer, receiver: Receiver) -> None:
    instance = Instance(pixels=500_000)
    peer.send(store_message(1, request(instance), instance.encode(EXPLICIT)))
    peer.finish_sending()
    with contextlib.suppress(EOFError):
        peer.receive()
    assert receiver.wait_for_registration(instance.series)["ndicom"] == 1
    assert receiver.data_set_of(instance.sop_instance) == instance.encode(EXPLICIT)


def test_command_and_data_in_one_pdu(peer: RawPeer, receiver: Receiver) -> None:
    instance = Instance()
    peer.send(
        p_data(
            pdv(1, request(instance), command=True, last=True),
            *fragments(1, instance.encode(EXPLICIT), command=False, size=100),
        )
    )
    assert_stored(peer, receiver, instance)


@pytest.mark.parametrize("size", [1, 2, 13])
@pytest.mark.parametrize("pdus", ["one PDU", "a PDU each"])
def test_commands_in_fragments(peer: RawPeer, receiver: Receiver, size: int, pdus: str) -> None:
    instance = Instance()
    pdvs = list(fragments(1, request(instance), command=True, size=size))
    assert len(pdvs) > 5
    peer.send(p_data(*pdvs) if pdus == "one PDU" else b"".join(map(p_data, pdvs)))
    peer.send(p_data(pdv(1, instance.encode(EXPLICIT), command=False, last=True)))
    assert_stored(peer, receiver, instance)


def test_pdvs_of_zero_and_odd_lengths(peer: RawPeer, receiver: Receiver) -> None:
    instance = Instance()
    data_set = instance.encode(EXPLICIT)
    sizes = [0, 1, 0, 3, 7, 0, 33, 101]
    data = list(fragments(1, data_set, command=False, size=sizes))
    command = list(fragments(1, request(instance), command=True, size=[0, 5, 0]))
    peer.send(p_data(*command, *data))
    assert_stored(peer, receiver, instance)


def test_last_pdv_may_be_empty(peer: RawPeer, receiver: Receiver) -> None:
    instance = Instance()
    peer.send(p_data(pdv(1, request(instance), command=True, last=False)))
    peer.send(p_data(pdv(1, b"", command=True, last=True)))
    peer.send(p_data(pdv(1, instance.encode(EXPLICIT), command=False, last=False)))
    peer.send(p_data(pdv(1, b"", command=False, last=True)))
    assert_stored(peer, receiver, instance)


def test_command_without_group_length(peer: RawPeer, receiver: Receiver) -> None:
    instance = Instance()
    command = request(instance)[12:]
    peer.send(store_message(1, command, instance.encode(EXPLICIT)))
    assert_stored(peer, receiver, instance)


def test_sender_with_nagle_does_not_stall(receiver: Receiver) -> None:
    with RawPeer(receiver.port, nodelay=False) as peer:
        peer.associate()
        waits = []
        for _ in range(40):
            instance = Instance(pixels=4000)
            data_set = instance.encode(EXPLICIT)
            started = time.perf_counter()
            for pdv_ in fragments(1, request(instance), command=True, size=1000):
                peer.send(p_data(pdv_))
            for pdv_ in fragments(1, data_set, command=False, size=1000):
                peer.send(p_data(pdv_))
            assert peer.response().status == 0
            waits.append(time.perf_counter() - started)
        peer.release()
    assert statistics.median(waits) < 0.02, "a delayed acknowledgement costs 40 ms each"


# ---- lengths that lie -----------------------------------------------------------------------


def test_pdv_beyond_its_pdu(peer: RawPeer) -> None:
    peer.send(pdu(P_DATA_TF, struct.pack(">IBB", 100, 1, 3) + bytes(10)))
    peer.expect_abort(2, 6)


@pytest.mark.parametrize("length", [0, 1])
def test_pdv_short_of_its_header(peer: RawPeer, length: int) -> None:
    peer.send(pdu(P_DATA_TF, struct.pack(">IBB", length, 1, 3)))
    peer.expect_abort(2, 6)


@pytest.mark.parametrize("rest", [1, 3, 5])
def test_pdu_ends_within_a_pdv_header(peer: RawPeer, rest: int) -> None:
    peer.send(pdu(P_DATA_TF, bytes([0, 0, 0, 2, 1])[:rest]))
    peer.expect_abort(2, 6)


def test_pdu_of_4_gib_is_streamed(peer: RawPeer, receiver: Receiver) -> None:
    instance = Instance()
    peer.send(p_data(pdv(1, request(instance), command=True, last=True)))
    before = receiver.peak_memory()
    peer.send(pdu(P_DATA_TF, b"", length=0xFFFFFFFF))
    peer.send(struct.pack(">IBB", 0xFFFFFFFF - 4, 1, 0))
    peer.send(instance.encode(EXPLICIT))
    for _ in range(64):
        peer.send(bytes(1 << 20))
    peer.finish_sending()
    peer.expect_close()
    assert receiver.peak_memory() - before < 32 << 20
    with pytest.raises(ValueError, match="not enough values"):
        receiver.path_of(instance.sop_instance)


def test_element_of_4_gib_before_the_wanted_ones(peer: RawPeer, receiver: Receiver) -> None:
    instance = Instance()
    data_set = element_header(0x00080001, "OB", 0xFFFFFFF0) + instance.encode(EXPLICIT)
    before = receiver.peak_memory()
    response = peer.store(instance.sop_instance, data_set)
    assert response.status == 0xC000
    assert receiver.peak_memory() - before < 16 << 20
    peer.echo(2)


def test_command_set_over_256_kib(peer: RawPeer) -> None:
    instance = Instance()
    command = c_store_rq(
        instance.sop_class, instance.sop_instance, extra=[(0x5000, bytes(256 * 1024))]
    )
    for pdv_ in fragments(1, command, command=True, size=16000):
        peer.send(p_data(pdv_))
    peer.expect_abort(2, 6)


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(b"\0\0\0\1", id="cut in a header"),
        pytest.param(struct.pack("<HHI", 0, 0x0100, 0xFFFFFFFF), id="element of 4 GiB"),
        pytest.param(command_set((0x0110, number(1))), id="no command field"),
        pytest.param(b"", id="empty"),
        pytest.param(bytes(range(256)) * 3, id="noise"),
    ],
)
def test_command_that_is_none(peer: RawPeer, command: bytes) -> None:
    peer.send(p_data(pdv(1, command, command=True, last=True)))
    peer.expect_abort(2, 6)


# ---- the order of things -----------------------------------------------------------------------


def test_data_without_command(peer: RawPeer) -> None:
    peer.send(p_data(pdv(1, b"data", command=False, last=True)))
    peer.expect_abort(2, 6)


def test_new_command_amid_data(peer: RawPeer, receiver: Receiver) -> None:
    instance = Instance()
    peer.send(p_data(pdv(1, request(instance), command=True, last=True)))
    peer.send(p_data(pdv(1, instance.encode(EXPLICIT), command=False, last=False)))
    peer.send(p_data(pdv(1, request(instance, 2), command=True, last=True)))
    peer.expect_abort(2, 6)
    with pytest.raises(ValueError, match="not enough values"):
        receiver.path_of(instance.sop_instance)


def test_data_on_another_context_than_its_command(receiver: Receiver) -> None:
    instance = Instance()
    contexts = [Context(1, CT_IMAGE_STORAGE, [EXPLICIT]), Context(5, CT_IMAGE_STORAGE, [IMPLICIT])]
    with RawPeer(receiver.port) as peer:
        peer.associate(contexts)
        peer.send(p_data(pdv(1, request(instance), command=True, last=True)))
        peer.send(p_data(pdv(5, instance.encode(IMPLICIT), command=False, last=True)))
        peer.expect_abort(2, 6)


def incomplete_requests() -> Iterator[object]:
    whole = Instance()
    yield pytest.param(c_store_rq(whole.sop_class, whole.sop_instance, None), id="message id")
    yield pytest.param(c_store_rq(None, whole.sop_instance), id="class UID")
    yield pytest.param(c_store_rq(whole.sop_class, None), id="instance UID")
    yield pytest.param(
        c_store_rq(whole.sop_class, whole.sop_instance, data_set=False), id="data set"
    )


@pytest.mark.parametrize("command", list(incomplete_requests()))
def test_store_request_without_what_it_needs(peer: RawPeer, command: bytes) -> None:
    peer.send(p_data(pdv(1, command, command=True, last=True)))
    peer.expect_abort(2, 6)


def half_instance(peer: RawPeer, instance: Instance) -> None:
    data_set = instance.encode(EXPLICIT)
    peer.send(p_data(pdv(1, request(instance), command=True, last=True)))
    peer.send(p_data(pdv(1, data_set[: len(data_set) // 2], command=False, last=False)))


def cut_in_a_header(peer: RawPeer) -> None:
    peer.send(b"\4\0\0")
    peer.finish_sending()


ENDS: dict[str, Callable[[RawPeer], None]] = {
    "end of file": RawPeer.finish_sending,
    "reset": RawPeer.close,
    "abort": lambda peer: peer.send(abort()),
    "release": lambda peer: peer.send(release_rq()),
    "cut in a PDU header": cut_in_a_header,
}


@pytest.mark.parametrize("end", ENDS)
def test_truncated_instance_leaves_nothing(receiver: Receiver, end: str) -> None:
    kept, lost = Instance(), Instance(pixels=200_000)
    with RawPeer(receiver.port) as peer:
        peer.associate()
        assert peer.store(kept.sop_instance, kept.encode(EXPLICIT)).status == 0
        half_instance(peer, lost)
        ENDS[end](peer)
    # What was acknowledged is kept and registered, however the association ended.
    assert receiver.wait_for_registration(kept.series)["ndicom"] == 1
    assert receiver.data_set_of(kept.sop_instance) == kept.encode(EXPLICIT)
    with pytest.raises(ValueError, match="not enough values"):
        receiver.path_of(lost.sop_instance)


def test_cancel_is_ignored(peer: RawPeer, receiver: Receiver) -> None:
    cancel = command_set(
        (0x0100, number(C_CANCEL_RQ)), (0x0120, number(1)), (0x0800, number(0x101))
    )
    instance = Instance()
    peer.send(p_data(pdv(1, cancel, command=True, last=True)))
    peer.send(store_message(1, request(instance), instance.encode(EXPLICIT)))
    assert_stored(peer, receiver, instance)
    peer.release()


@pytest.mark.parametrize("field", [0x0020, 0x0021, 0x0010, 0x0100, 0x0110, 0x0120, 0x0130, 0x0150])
@pytest.mark.parametrize("with_data", [False, True])
def test_other_commands_are_not_recognised(peer: RawPeer, field: int, with_data: bool) -> None:
    command = command_set(
        (0x0002, uid(STUDY_ROOT_FIND)),
        (0x0100, number(field)),
        (0x0110, number(77)),
        (0x0700, number(0)),
        (0x0800, number(1 if with_data else 0x0101)),
    )
    peer.send(p_data(pdv(1, command, command=True, last=True)))
    if with_data:
        peer.send(p_data(pdv(1, b"\x08\0\x52\0CS\6\0SERIES", command=False, last=False)))
        peer.send(p_data(pdv(1, b"", command=False, last=True)))
    response = peer.response()
    assert response.field == field | 0x8000
    assert response.message_id == 77
    assert response.status == 0x0211
    assert response.number(0x0800) == 0x0101
    peer.echo(78)
    peer.release()


def test_echo_carries_class_and_its_own_message_id(peer: RawPeer) -> None:
    instance = Instance()
    for message_id in (1, 2, 65535, 0, 300):
        response = peer.echo(message_id)
        assert response.message_id == message_id
        assert response.text(0x0002) == VERIFICATION
        assert peer.store(instance.sop_instance, instance.encode(EXPLICIT)).status == 0
    peer.release()


def test_echo_on_a_storage_context(peer: RawPeer) -> None:
    peer.send(p_data(pdv(1, c_echo_rq(4), command=True, last=True)))
    assert peer.response().message_id == 4


def test_store_response_names_what_was_stored(peer: RawPeer) -> None:
    instance = Instance()
    response = peer.store(instance.sop_instance, instance.encode(EXPLICIT), message_id=513)
    assert response.text(0x0002) == instance.sop_class
    assert response.text(0x1000) == instance.sop_instance
    assert response.number(0x0800) == 0x0101
    assert len(response.elements[0x1000]) % 2 == 0
    size = int.from_bytes(response.elements[0x0000], "little")
    assert size == sum(8 + len(value) for number, value in response.elements.items() if number)


def test_requests_may_be_pipelined(peer: RawPeer, receiver: Receiver) -> None:
    instances = {number: Instance(pixels=20_000) for number in range(1, 21)}
    peer.send(
        b"".join(
            store_message(1, request(instance, message_id), instance.encode(EXPLICIT))
            for message_id, instance in instances.items()
        )
    )
    # In any order, as PS3.7 D.3.3.3 lets those that work asynchronously.
    waiting = dict(instances)
    while waiting:
        response = peer.response()
        assert response.status == 0
        assert response.text(0x1000) == waiting.pop(response.message_id).sop_instance
    peer.release()
    for instance in instances.values():
        assert receiver.data_set_of(instance.sop_instance) == instance.encode(EXPLICIT)


@pytest.mark.parametrize("transfer_syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED])
def test_bytes_are_kept_in_every_encoding(receiver: Receiver, transfer_syntax: str) -> None:
    instance = Instance(pixels=70_000)
    data_set = instance.encode(transfer_syntax)
    with RawPeer(receiver.port) as peer:
        peer.associate([Context(1, CT_IMAGE_STORAGE, [transfer_syntax])])
        assert peer.store(instance.sop_instance, data_set).status == 0
        peer.release()
    assert receiver.data_set_of(instance.sop_instance) == data_set


def test_strict_refuses_an_overlong_pdu_at_its_header(tmp_path: Path) -> None:
    with (
        Receiver(tmp_path, OXIDICOM_SCP_STRICT="true") as receiver,
        RawPeer(receiver.port) as peer,
    ):
        peer.associate()
        peer.send(pdu(P_DATA_TF, b"", length=131_073))
        peer.expect_abort(2, 6)
