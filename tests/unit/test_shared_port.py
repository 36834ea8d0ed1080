"""One port for several processes: which accepts a connection, and how many there may be."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator
from typing import cast

import pytest
import pytest_asyncio

from oxidicom.net import shared_port
from oxidicom.net.shared_port import (
    Scoreboard,
    SharedConnectionCounts,
    SharedPort,
    listening_sockets,
)
from tests.support.timing import WAIT_LIMIT_S

pytestmark = pytest.mark.both_loops


class Greeter(asyncio.Protocol):
    """Tells the client which process answered, and counts connections as the listener does."""

    def __init__(self, name: bytes, counts: SharedConnectionCounts) -> None:
        self._name = name
        self._counts = counts

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have no base class.
        cast(asyncio.WriteTransport, transport).write(self._name)

    def connection_lost(self, exc: Exception | None) -> None:
        self._counts.connections -= 1


class Process:
    """One worker's side of the port; the workers of a test share one process."""

    def __init__(
        self, name: bytes, sockets: list[socket.socket], counts: SharedConnectionCounts
    ) -> None:
        self.counts = counts
        self.port = SharedPort([each.dup() for each in sockets], counts)
        self._name = name

    def open(self) -> None:
        self.port.open(lambda: Greeter(self._name, self.counts))


class Bench:
    def __init__(self, workers: int) -> None:
        self.sockets = listening_sockets("127.0.0.1", 0, 16)
        self.address = self.sockets[0].getsockname()
        self.load = Scoreboard.create(workers)
        self.processes = [
            Process(b"%d" % number, self.sockets, self.load.counts(number))
            for number in range(workers)
        ]
        self.writers: list[asyncio.StreamWriter] = []

    async def connect(self) -> int:
        """Return the number of the process that accepted it."""
        reader, writer = await asyncio.open_connection(*self.address)
        self.writers.append(writer)
        async with asyncio.timeout(10):
            return int(await reader.readexactly(1))

    async def close(self) -> None:
        for process in self.processes:
            process.port.close()
        for writer in self.writers:
            writer.close()
        for each in self.sockets:
            each.close()
        os.close(self.load.fd)


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench(3)
    yield bench
    await bench.close()


async def test_the_process_with_fewest_connections_accepts_the_next(bench: Bench) -> None:
    for process in bench.processes:
        process.open()
    taken = [await bench.connect() for _ in range(9)]
    assert sorted(taken) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


async def test_processes_that_accept_none_are_not_waited_for(bench: Bench) -> None:
    for process in bench.processes:
        process.open()
    bench.load.vacate(0)
    bench.processes[0].port.close()
    assert sorted([await bench.connect() for _ in range(4)]) == [1, 1, 2, 2]


async def test_a_process_that_does_not_accept_is_waited_for_briefly(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row says that it has none; its thread may hang in the storage."""
    monkeypatch.setattr(shared_port, "STEP_ASIDE_S", 0.05)
    bench.processes[1].open()
    loop = asyncio.get_running_loop()
    for turn in range(3):
        began = loop.time()
        assert await bench.connect() == 1
        assert loop.time() - began >= (0.04 if turn else 0.0)


async def test_accepting_pauses_without_file_handles(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accepting is tried again after a pause, because the loop has others to serve."""
    monkeypatch.setattr(shared_port, "ACCEPT_PAUSE_S", 0.05)
    loop = asyncio.get_running_loop()
    failures: list[float] = []
    again = asyncio.Event()

    def accept(self: socket.socket) -> tuple[socket.socket, object]:
        failures.append(loop.time())
        if len(failures) == 3:
            again.set()
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "accept", accept)
        bench.processes[0].open()
        connecting = asyncio.create_task(bench.connect())
        async with asyncio.timeout(WAIT_LIMIT_S):
            await again.wait()
        assert failures[2] - failures[0] > 0.09
    assert await connecting == 0


async def test_closing_leaves_the_port_to_the_others(bench: Bench) -> None:
    for process in bench.processes[:2]:
        process.open()
    bench.load.vacate(2)
    bench.load.vacate(0)
    bench.processes[0].port.close()
    bench.processes[0].port.close()
    assert await bench.connect() == 1


def test_rows_are_shared_and_sums_are_of_all() -> None:
    here = Scoreboard.create(3)
    there = Scoreboard(os.dup(here.fd), 3)
    one, two = here.counts(0), there.counts(1)
    assert one.has_fewest
    two.connections, two.associations = 3, 2
    one.connections, one.associations = 4, 1
    assert one.all_associations == two.all_associations == 3
    assert not one.has_fewest
    assert two.has_fewest
    here.vacate(1)
    assert one.has_fewest
    assert one.all_associations == 1
    os.close(there.fd)
    os.close(here.fd)


def test_each_address_of_a_host_gets_its_socket() -> None:
    for host, expected in (("127.0.0.1", 1), ("0.0.0.0", 1), ("::", 1)):
        sockets = listening_sockets(host, 0, 16)
        assert len(sockets) == expected
        assert not any(each.get_inheritable() for each in sockets)
        port = sockets[0].getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), 5):
            pass
        with pytest.raises(OSError, match="in use"):
            listening_sockets(host, port, 16)
        for each in sockets:
            each.close()


def test_an_unknown_host_raises() -> None:
    with pytest.raises(OSError, match=r"."):
        listening_sockets("256.1.1.1.invalid", 0, 16)


def test_the_count_of_one_process_alone() -> None:
    counts = shared_port.ConnectionCounts()
    counts.associations = 2
    assert counts.all_associations == 2
