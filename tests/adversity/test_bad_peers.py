"""Peers that only stand there, dribble, never read or talk nonsense (promise 6; decisions 8, 16).

Meanwhile another peer's messages are answered, each bad one is ended by its timer, and nothing of
it stays.
"""

from __future__ import annotations

import random
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psutil
import pytest

from tests.adversity.conftest import Figures, Scale
from tests.support.data import Instance
from tests.support.probe import Probe
from tests.support.raw_peer import (
    EXPLICIT,
    RawPeer,
    associate_rq,
    c_echo_rq,
    c_store_rq,
    p_data,
    pdv,
)
from tests.support.receiver import Receiver, wait_until
from tests.support.timing import BUSY_MACHINE_S

ARTIM, IDLE = 2.0, 1.5

SLACK = 2.0
"""Seconds a short form forgives at the 99th percentile: a busy machine makes ten of each."""

STRICT = 0.05
"""Promise 6."""

MEMORY = 8 << 20
"""Bytes by which a process may be larger afterwards: arenas do not shrink to the byte."""


@pytest.fixture(
    scope="module",
    params=[1, pytest.param(2, marks=pytest.mark.long)],
    ids=["1 worker", "2 workers"],
)
def receiver(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Receiver]:
    receiver = Receiver(
        tmp_path_factory.mktemp("files"),
        OXIDICOM_WORKERS=str(request.param),
        OXIDICOM_ARTIM_TIMEOUT=f"{ARTIM}s",
        OXIDICOM_IDLE_TIMEOUT=f"{IDLE}s",
        OXIDICOM_LISTENER_THREADS="2000",
    )
    with receiver:
        one_of_each(receiver)  # warm, so that what is compared later is not the first touch
        yield receiver


@pytest.fixture(scope="module")
def alone(receiver: Receiver) -> Probe:
    """Return what a peer measures without bad peers, for the load that the machine has now."""
    with Probe(receiver.port) as probe:
        time.sleep(1)
    return probe


def one_of_each(receiver: Receiver) -> None:
    for greeting in GREETINGS:
        with RawPeer(receiver.port) as peer:
            peer.send(greeting)
            end_of(peer)


def resident(receiver: Receiver) -> int:
    return sum(process.memory_info().rss for process in receiver.processes())


class Undisturbed:
    """Checks that a bad peer affects neither the waits of others nor descriptors and memory."""

    def __init__(self, receiver: Receiver, figures: Figures, limit: float) -> None:
        self._receiver = receiver
        self._figures = figures
        self._limit = limit

    @contextmanager
    def by(self, what: str) -> Iterator[None]:
        receiver = self._receiver
        files, memory = receiver.open_files(), resident(receiver)
        with Probe(receiver.port) as probe:
            yield
        wait_until(lambda: receiver.open_files() <= files, "its connections to be gone")
        growth = resident(receiver) - memory
        self._figures(f"{what}: {probe}; memory {growth / 1024:+.0f} KiB")
        assert growth < MEMORY * len(receiver.processes())
        assert probe.p99 < self._limit


@pytest.fixture
def undisturbed(receiver: Receiver, alone: Probe, figures: Figures, long: bool) -> Undisturbed:
    figures(f"alone: {alone}")
    return Undisturbed(receiver, figures, alone.p99 + (STRICT if long else SLACK))


def end_of(peer: RawPeer) -> bytes:
    """All that comes until the receiver closes; a reset is an end too."""
    data = bytearray()
    try:
        while received := peer.socket.recv(65536):
            data += received
    except ConnectionError:
        pass
    return bytes(data)


def test_bare_connects(
    receiver: Receiver, undisturbed: Undisturbed, rng: random.Random, scale: Scale
) -> None:
    number = scale(1000, 10_000)
    before = len(receiver.lines)
    with undisturbed.by(f"{number} bare connects"):
        for _ in range(number):
            with socket.create_connection(("127.0.0.1", receiver.port)) as connection:
                if rng.random() < 0.3:  # as scanners do, by a reset
                    linger = struct.pack("ii", 1, 0)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    # The probe's association begins and ends; the connects say nothing (decision 8).
    assert len(receiver.lines) - before < 20


def test_idle_sockets(receiver: Receiver, undisturbed: Undisturbed, scale: Scale) -> None:
    number = scale(100, 500)
    with undisturbed.by(f"{number} idle sockets"), ExitStack() as stack:
        began = time.monotonic()
        peers = [stack.enter_context(RawPeer(receiver.port)) for _ in range(number)]
        assert {end_of(peer) for peer in peers} == {b""}
        assert ARTIM - 0.1 < time.monotonic() - began < ARTIM + BUSY_MACHINE_S


def test_idle_associations(receiver: Receiver, undisturbed: Undisturbed, scale: Scale) -> None:
    number = scale(50, 500)
    with undisturbed.by(f"{number} idle associations"), ExitStack() as stack:
        peers = [stack.enter_context(RawPeer(receiver.port)) for _ in range(number)]
        for peer in peers:
            peer.associate()
        for peer in peers:
            peer.expect_abort(2, 0)


def test_a_byte_a_second(receiver: Receiver, undisturbed: Undisturbed) -> None:
    request = associate_rq([])
    with undisturbed.by("a byte a second"), RawPeer(receiver.port) as peer:
        peer.socket.settimeout(1)
        began = time.monotonic()
        for octet in request:
            peer.send(bytes([octet]))
            try:
                assert end_of(peer) == b""
                break
            except TimeoutError:  # a second went by
                continue
        assert time.monotonic() - began < ARTIM + 2 + BUSY_MACHINE_S


@pytest.mark.long
def test_a_byte_a_second_amid_an_instance(receiver: Receiver, undisturbed: Undisturbed) -> None:
    """The minute of decision 16 cannot be shortened from outside."""
    instance = Instance(pixels=100_000)
    data_set = instance.encode(EXPLICIT)
    with undisturbed.by("a byte a second within an instance"), RawPeer(receiver.port) as peer:
        peer.associate()
        command = c_store_rq(instance.sop_class, instance.sop_instance)
        peer.send(p_data(pdv(1, command, command=True, last=True)))
        peer.send(p_data(pdv(1, data_set[:500], command=False, last=False)))
        peer.socket.settimeout(1)
        began = time.monotonic()
        for octet in data_set[500:]:
            peer.send(p_data(pdv(1, bytes([octet]), command=False, last=False)))
            try:
                peer.expect_abort(2, 0)
                break
            except TimeoutError:
                continue
        assert 55 < time.monotonic() - began < 70
    wait_until(lambda: not receiver.leftovers(), "nothing left behind")


def test_a_peer_that_never_reads(
    receiver: Receiver, undisturbed: Undisturbed, scale: Scale, long: bool
) -> None:
    """The peer sends until we stop reading, and is then idle, or slow within a message."""
    number = scale(1, 20)
    echoes = p_data(pdv(3, c_echo_rq(), command=True, last=True)) * 500_000
    with undisturbed.by(f"{number} peers that never read"), ExitStack() as stack:
        peers = []
        for _ in range(number):
            peers.append(stack.enter_context(RawPeer(receiver.port)))
            peers[-1].associate()
            peers[-1].socket.settimeout(0.3)
            with pytest.raises(TimeoutError):
                peers[-1].send(echoes)
        if not long:
            time.sleep(IDLE + 1)  # a flood is short: its effects show during what follows
            return
        gone = {peer.socket.getsockname()[1] for peer in peers}
        wait_until(lambda: not gone & connected_ports(receiver), "them to be ended", 80)


def connected_ports(receiver: Receiver) -> set[int]:
    return {
        connection.raddr.port
        for process in receiver.processes()
        for connection in process.net_connections("tcp")
        if connection.raddr and connection.status == psutil.CONN_ESTABLISHED
    }


GREETINGS = [
    b"GET / HTTP/1.1\r\nHost: pacs\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) * 2,  # TLS
    b"\x00\x00\x00\x85\xffSMBr\x00\x00\x00\x00\x18\x53\xc8",
    b"SSH-2.0-OpenSSH_9.2p1\r\n",
    b"\x03\x00\x00\x13\x0e\xe0\x00\x00\x00\x00\x00\x01\x00\x08\x00\x03\x00\x00\x00",  # RDP
    b"\r\n\r\n",
    b"\x01\x00\xff\xff\xff\xff",  # an A-ASSOCIATE-RQ of 4 GiB
]


def test_a_port_scanners_garbage(
    receiver: Receiver, undisturbed: Undisturbed, rng: random.Random, scale: Scale
) -> None:
    number = scale(300, 5000)
    with undisturbed.by(f"{number} greetings of garbage"):
        for _ in range(number):
            garbage = rng.choice([*GREETINGS, rng.randbytes(rng.randint(6, 5000))])
            with RawPeer(receiver.port) as peer:
                try:
                    peer.send(garbage)
                except ConnectionError:
                    continue
                peer.finish_sending()
                # An answer is an A-ABORT, or the end at once.
                assert end_of(peer)[:1] in (b"", b"\x07")
    assert not [record for record in receiver.log() if record["level"] == "ERROR"]
