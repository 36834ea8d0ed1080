"""Framing over a real port, by a peer that does what no sender should.

PS3.8 9.3.5 and annex E (decisions 10, 14, 17, 19).
"""

from __future__ import annotations

import contextlib
import statistics
import struct
import time
from collections.abc import Iterator

import pytest

from tests.support.data import Instance, element_header
from tests.support.raw_peer import (
    CT_IMAGE_STORAGE,
    EXPLICIT,
    P_DATA_TF,
    Context,
    RawPeer,
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
)
from tests.support.receiver import Receiver, wait_until
from tests.support.storing import assert_stored, request


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
    # The quicker ones, for the machine may have other work.
    quick, *_ = statistics.quantiles(waits)
    assert quick < 0.02, "a delayed acknowledgement costs 40 ms each"


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
