"""The connection of a requestor: its time limits, and what it makes of a peer that closes it."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from oxidicom.scu.connection import UNLIMITED, Limits, PduConnection, Peer
from oxidicom.scu.errors import Fault, ScuError
from tests.support.raw_peer import P_DATA_TF, abort, pdu

Behaviour = Callable[[socket.socket], None]


@contextlib.contextmanager
def connected(
    behaviour: Behaviour, timeout: float = 10.0, limits: Limits = UNLIMITED
) -> Iterator[PduConnection]:
    """A connection to a server that treats its one connection so."""

    def serve() -> None:
        peer, _ = listener.accept()
        with peer, contextlib.suppress(OSError):
            behaviour(peer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        port = listener.getsockname()[1]
        connection = PduConnection(Peer("127.0.0.1", port, "A", "B", timeout), limits)
        try:
            yield connection
        finally:
            connection.close()
            thread.join(10)


def dribble(peer: socket.socket) -> None:
    peer.sendall(pdu(P_DATA_TF, b"", 1000))
    while True:
        peer.sendall(b"\0")
        time.sleep(0.02)


def reset(peer: socket.socket) -> None:
    peer.recv(1)  # or connecting itself could fail
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def send_until_it_fails(connection: PduConnection) -> None:
    while True:
        connection.send(bytes(1000))
        time.sleep(0.01)


def receive_until_it_fails(connection: PduConnection) -> None:
    while True:
        connection.receive(1000)


@pytest.mark.parametrize(
    ("timeout", "limits", "text"),
    [
        (0.3, UNLIMITED, "does not answer within 0.3 s"),
        (10.0, Limits(seconds=0.3), "gave no complete answer within 0.3 s"),
    ],
)
def test_bytes_that_trickle_in_do_not_extend_the_time_of_an_answer(
    timeout: float, limits: Limits, text: str
) -> None:
    with connected(dribble, timeout, limits) as connection:
        connection.expect_answer()
        began = time.monotonic()
        with pytest.raises(ScuError, match=text) as caught:
            connection.receive(1000)
        assert time.monotonic() - began < 5
    assert caught.value.fault is Fault.TIMEOUT
    assert not connection.is_open


def test_a_reset_connection_ends_sending_with_an_error() -> None:
    with connected(reset) as connection, pytest.raises(ScuError) as caught:
        send_until_it_fails(connection)
    assert caught.value.fault is Fault.CLOSED
    assert not connection.is_open


def test_an_abort_that_waits_to_be_read_is_the_reason_why_sending_failed() -> None:
    def behaviour(peer: socket.socket) -> None:
        peer.recv(65536)
        peer.sendall(abort(0, 0))
        peer.shutdown(socket.SHUT_RDWR)
        time.sleep(0.2)

    with connected(behaviour) as connection, pytest.raises(ScuError) as caught:
        send_until_it_fails(connection)
    assert caught.value.fault is Fault.ABORTED


def test_the_bytes_of_one_connection_are_limited() -> None:
    def behaviour(peer: socket.socket) -> None:
        while True:
            peer.sendall(pdu(P_DATA_TF, bytes(1000)))

    with connected(behaviour, limits=Limits(receive_bytes=100_000)) as connection:
        connection.expect_answer()
        with pytest.raises(ScuError, match="more than 100000 bytes"):
            receive_until_it_fails(connection)
