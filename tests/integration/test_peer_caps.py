"""OXIDICOM_MAX_ASSOCIATIONS_PER_PEER limits the associations of one address over the whole
receiver."""

from __future__ import annotations

import select
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from oxidicom.net.peers import MAX_BARE_CONNECTIONS
from tests.support.raw_peer import IMPLICIT, VERIFICATION, Context, RawPeer, associate_rq
from tests.support.receiver import Receiver, wait_until

ECHO = [Context(3, VERIFICATION, [IMPLICIT])]


def peer_from(stack: ExitStack, receiver: Receiver, address: str) -> RawPeer:
    return stack.enter_context(RawPeer(receiver.port, source=address))


def open_of(peers: list[RawPeer]) -> list[RawPeer]:
    """Return the peers whose connection the receiver has not closed; nothing has been sent on
    any."""
    ready = {peer for peer in peers if select.select([peer.socket], [], [], 0)[0]}
    assert {peer.socket.recv(1, socket.MSG_PEEK) for peer in ready} <= {b""}, "EOF, and no reset"
    return [peer for peer in peers if peer not in ready]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_one_more_association_is_rejected_as_transient(tmp_path: Path, workers: str) -> None:
    with (
        Receiver(
            tmp_path, OXIDICOM_WORKERS=workers, OXIDICOM_MAX_ASSOCIATIONS_PER_PEER="3"
        ) as receiver,
        ExitStack() as stack,
    ):
        peers = [peer_from(stack, receiver, "127.0.0.1") for _ in range(3)]
        for peer in peers:
            peer.associate(ECHO)
        if workers == "2":
            of = {receiver.worker_of(peer.socket.getsockname()[1]).pid for peer in peers}
            assert len(of) == 2
        for _ in range(4):
            refused = peer_from(stack, receiver, "127.0.0.1")
            refused.send(associate_rq(ECHO))
            refused.expect_reject(2, 3, 2)
        other = peer_from(stack, receiver, "127.0.0.2")
        other.associate(ECHO)
        other.echo()
        peers[0].release()
        again = peer_from(stack, receiver, "127.0.0.1")
        again.associate(ECHO)
        again.echo()
        # A closed connection no longer counts, either.
        peers[1].close()

        def admitted() -> bool:
            late = peer_from(stack, receiver, "127.0.0.1")
            late.send(associate_rq(ECHO))
            return late.receive().type == 2

        wait_until(admitted, "a place that a dropped connection had")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_connections_that_do_not_associate_are_limited(tmp_path: Path, workers: str) -> None:
    with (
        Receiver(
            tmp_path, OXIDICOM_WORKERS=workers, OXIDICOM_MAX_ASSOCIATIONS_PER_PEER="1"
        ) as receiver,
        ExitStack() as stack,
    ):
        sender = peer_from(stack, receiver, "127.0.0.1")
        sender.associate(ECHO)
        lines = len(receiver.lines)
        bare = [peer_from(stack, receiver, "127.0.0.1") for _ in range(MAX_BARE_CONNECTIONS + 200)]
        # At once: ARTIM is thirty seconds.
        wait_until(
            lambda: len(open_of(bare)) <= MAX_BARE_CONNECTIONS, "those beyond to be closed", 10
        )
        if workers == "1":  # several take in what order they like
            assert open_of(bare) == bare[:MAX_BARE_CONNECTIONS]
        assert open_of(bare)
        sender.echo()
        other = peer_from(stack, receiver, "127.0.0.2")
        other.associate(ECHO)
        other.echo(2)
        assert len(receiver.lines) - lines < 5, "quietly"


def test_associations_of_a_dead_worker_do_not_count(tmp_path: Path) -> None:
    with (
        Receiver(
            tmp_path, OXIDICOM_WORKERS="2", OXIDICOM_MAX_ASSOCIATIONS_PER_PEER="2"
        ) as receiver,
        ExitStack() as stack,
    ):
        peers = [peer_from(stack, receiver, "127.0.0.1") for _ in range(2)]
        for peer in peers:
            peer.associate(ECHO)
        receiver.worker_of(peers[0].socket.getsockname()[1]).kill()
        receiver.wait_for_log("worker replaced")
        again = peer_from(stack, receiver, "127.0.0.1")
        again.associate(ECHO)
        again.echo()


def test_ipv4_on_a_socket_for_both_families(tmp_path: Path) -> None:
    with (
        Receiver(
            tmp_path, OXIDICOM_LISTENER_HOST="::", OXIDICOM_MAX_ASSOCIATIONS_PER_PEER="1"
        ) as receiver,
        ExitStack() as stack,
    ):
        peer_from(stack, receiver, "127.0.0.1").associate(ECHO)
        refused = peer_from(stack, receiver, "127.0.0.1")
        refused.send(associate_rq(ECHO))
        refused.expect_reject(2, 3, 2)
        peer_from(stack, receiver, "127.0.0.2").associate(ECHO)
