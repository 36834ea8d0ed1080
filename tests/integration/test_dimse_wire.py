"""The order of DIMSE messages over a real port (PS3.7 chapter 9; decisions 17, 18, 31)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.data import Instance
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
    c_echo_rq,
    c_store_rq,
    command_set,
    number,
    p_data,
    pdu,
    pdv,
    release_rq,
    store_message,
    uid,
)
from tests.support.receiver import Receiver, wait_until
from tests.support.storing import assert_stored, request

STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"


@pytest.fixture(scope="module", params=["inline", "threads"])
def receiver(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Receiver]:
    """Yield a receiver for each write mode: both keep the same rules."""
    with Receiver(tmp_path_factory.mktemp("files"), OXIDICOM_WRITE_MODE=request.param) as receiver:
        yield receiver


@pytest.fixture(autouse=True)
def next_association_works(receiver: Receiver) -> Iterator[None]:
    """Check after each test that the next association stores, and that nothing incomplete is
    left."""
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
    """Yield an association with CT Image Storage (1) and Verification (3)."""
    with RawPeer(receiver.port) as peer:
        peer.associate()
        yield peer


def test_data_without_a_command_is_aborted(peer: RawPeer) -> None:
    peer.send(p_data(pdv(1, b"data", command=False, last=True)))
    peer.expect_abort(2, 6)


def test_a_command_within_a_data_set_is_aborted(peer: RawPeer, receiver: Receiver) -> None:
    instance = Instance()
    peer.send(p_data(pdv(1, request(instance), command=True, last=True)))
    peer.send(p_data(pdv(1, instance.encode(EXPLICIT), command=False, last=False)))
    peer.send(p_data(pdv(1, request(instance, 2), command=True, last=True)))
    peer.expect_abort(2, 6)
    with pytest.raises(ValueError, match="not enough values"):
        receiver.path_of(instance.sop_instance)


def test_data_on_another_context_than_its_command_is_aborted(receiver: Receiver) -> None:
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
def test_an_incomplete_store_request_is_aborted(peer: RawPeer, command: bytes) -> None:
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


def test_an_echo_on_a_storage_context_is_answered(peer: RawPeer) -> None:
    peer.send(p_data(pdv(1, c_echo_rq(4), command=True, last=True)))
    assert peer.response().message_id == 4


def test_a_store_response_names_the_stored_instance(peer: RawPeer) -> None:
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
    # In any order, which PS3.7 D.3.3.3 allows for asynchronous operations.
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
