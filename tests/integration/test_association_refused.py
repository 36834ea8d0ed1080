"""Associations that are refused or aborted, over a real port (PS3.8; decisions 7 to 14)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.raw_peer import (
    AC,
    IMPLICIT,
    P_DATA_TF,
    RELEASE_RP,
    RQ,
    VERIFICATION,
    Context,
    RawPeer,
    abort,
    associate_rq,
    c_echo_rq,
    item,
    p_data,
    pdu,
    pdv,
    release_rq,
)
from tests.support.receiver import Receiver

ECHO = [Context(3, VERIFICATION, [IMPLICIT])]


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    with Receiver(tmp_path_factory.mktemp("files")) as receiver:
        yield receiver


@pytest.fixture(autouse=True)
def next_association_works(receiver: Receiver) -> Iterator[None]:
    """Check after each test that the next peer is served (promise 6)."""
    yield
    with RawPeer(receiver.port) as peer:
        peer.associate(ECHO)
        peer.echo()
        peer.release()


@pytest.mark.parametrize("version", [0, 2, 0xFFFE])
def test_protocol_version_without_bit_0_is_rejected(receiver: Receiver, version: int) -> None:
    with RawPeer(receiver.port) as peer:
        peer.send(associate_rq(ECHO, version=version))
        peer.expect_reject(1, 2, 2)


def test_other_application_context_is_rejected(receiver: Receiver) -> None:
    with RawPeer(receiver.port) as peer:
        peer.send(associate_rq(ECHO, application_context="1.2.840.10008.3.1.1.2"))
        peer.expect_reject(1, 1, 2)


@pytest.mark.parametrize("pdu_type", [AC, P_DATA_TF, RELEASE_RP, 3])
def test_wrong_first_pdu_is_unexpected(receiver: Receiver, pdu_type: int) -> None:
    with RawPeer(receiver.port) as peer:
        peer.send(pdu(pdu_type, bytes(4)))
        peer.expect_abort(2, 2)


def test_release_before_association_is_answered(receiver: Receiver) -> None:
    with RawPeer(receiver.port) as peer:
        peer.send(release_rq())
        peer.expect(RELEASE_RP)
        peer.finish_sending()
        peer.expect_close()


def test_abort_before_association_just_closes(receiver: Receiver) -> None:
    with RawPeer(receiver.port) as peer:
        peer.send(abort())
        peer.expect_close()


@pytest.mark.parametrize("associated", [False, True])
def test_unknown_pdu_type_is_refused_at_its_header(receiver: Receiver, associated: bool) -> None:
    with RawPeer(receiver.port) as peer:
        if associated:
            peer.associate(ECHO)
        peer.send(pdu(0x2A, b"", length=0xFFFFFFFF))
        peer.expect_abort(2, 1)


@pytest.mark.parametrize("length", [256 * 1024 + 1, 0xFFFFFFFF])
def test_overlong_request_is_refused_at_its_header(receiver: Receiver, length: int) -> None:
    with RawPeer(receiver.port) as peer:
        peer.send(pdu(RQ, b"", length=length))
        peer.expect_abort(2, 6)


def test_request_of_256_kib_is_accepted(receiver: Receiver) -> None:
    # As unknown items, each of which may have 64 KiB.
    base = len(associate_rq(ECHO)) - 6
    rest = 256 * 1024 - base
    fillers = []
    while rest:
        size = min(rest, 60000)
        fillers.append(item(0x77, bytes(size - 4)))
        rest -= size
    with RawPeer(receiver.port) as peer:
        peer.associate(ECHO, other_items=b"".join(fillers))
        peer.echo()
        peer.release()


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(bytes(67), id="short of its fixed fields"),
        pytest.param(b"\0\1" + bytes(66) + b"\x10\0\xff\xff1.2", id="item longer than the PDU"),
        pytest.param(b"\0\1" + bytes(66) + b"\x10\0", id="item header cut"),
        pytest.param(b"\0\1" + bytes(66) + b"\x20\0\0\2\1\0", id="context item too short"),
        pytest.param(associate_rq([*ECHO, *ECHO])[6:], id="context id twice"),
        pytest.param(associate_rq([Context(2, VERIFICATION, [IMPLICIT])])[6:], id="even id"),
    ],
)
def test_malformed_request_is_aborted(receiver: Receiver, body: bytes) -> None:
    with RawPeer(receiver.port) as peer:
        peer.send(pdu(RQ, body))
        peer.expect_abort(2, 6)


def test_an_abort_arrives_though_the_peer_still_sends(receiver: Receiver) -> None:
    # Closing with unread bytes would reset the connection and destroy the A-ABORT.
    with RawPeer(receiver.port) as peer:
        peer.send(pdu(0x2A, b"", length=100_000_000))
        try:
            for _ in range(50):
                peer.send(bytes(100_000))
        except BrokenPipeError:
            pytest.fail("reset while still sending")
        peer.expect_abort(2, 1)


@pytest.mark.parametrize(
    "unexpected",
    [
        pytest.param(associate_rq(ECHO), id="second A-ASSOCIATE-RQ"),
        pytest.param(pdu(AC, bytes(68)), id="A-ASSOCIATE-AC"),
        pytest.param(pdu(RELEASE_RP, bytes(4)), id="A-RELEASE-RP"),
    ],
)
def test_an_unexpected_pdu_in_an_association_is_aborted(
    receiver: Receiver, unexpected: bytes
) -> None:
    with RawPeer(receiver.port) as peer:
        peer.associate(ECHO)
        peer.send(unexpected)
        peer.expect_abort(2, 2)


def test_rejected_and_unknown_contexts_are_not_usable(receiver: Receiver) -> None:
    contexts = [Context(1, "1.2.3", [IMPLICIT]), *ECHO]
    for context_id in (1, 5, 2, 0):
        with RawPeer(receiver.port) as peer:
            peer.associate(contexts)
            peer.send(p_data(pdv(context_id, c_echo_rq(), command=True, last=True)))
            peer.expect_abort(2, 6)


def test_one_more_association_than_the_limit_is_rejected(tmp_path: Path) -> None:
    with (
        Receiver(tmp_path, OXIDICOM_LISTENER_THREADS="2") as receiver,
        RawPeer(receiver.port),  # bare connections do not count
        RawPeer(receiver.port),
        RawPeer(receiver.port) as first,
        RawPeer(receiver.port) as second,
    ):
        first.associate(ECHO)
        second.associate(ECHO)
        with RawPeer(receiver.port) as third:
            third.send(associate_rq(ECHO))
            third.expect_reject(2, 3, 2)
        first.echo()
        second.release()
        with RawPeer(receiver.port) as third:
            third.associate(ECHO)
            third.echo()
            third.release()
        first.release()
