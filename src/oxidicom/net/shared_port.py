"""One port for several receiving processes: which of them accepts the next connection, and how many
associations they have together."""

from __future__ import annotations

import asyncio
import errno
import logging
import mmap
import os
import socket
from collections.abc import Callable, Sequence
from typing import Final

from oxidicom.logevents import event
from oxidicom.net.peers import PeerTable, SharedPeerTable, clear_part, peer_table_size

logger = logging.getLogger("oxidicom.net")

STEP_ASIDE_S: Final = 0.005
"""Seconds for which a process leaves a new connection to those with fewer connections. A busy
process accepts within a millisecond or two. The wait pays: two associations of one process share
its core until they end."""

ACCEPT_PAUSE_S: Final = 1.0
"""Seconds for which nothing is accepted after the system lacked file handles or memory."""

_SCARCE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_ROW_BYTES: Final = 8
"""Bytes of a row: connections and associations, of 32 bits each, each written in one step."""
_VACANT_ROW: Final = 2**32 - 1
"""Number of connections in the row of a process that accepts none: others never wait for it."""


class ConnectionCounts:
    """The numbers of connections and associations of a receiver with one process."""

    def __init__(self, peer_table: PeerTable | None = None) -> None:
        self.connections = 0
        self.associations = 0
        self.peer_table = PeerTable() if peer_table is None else peer_table
        """Counts by peer address."""

    @property
    def all_associations(self) -> int:
        return self.associations


class SharedConnectionCounts(ConnectionCounts):
    """The numbers of connections and associations of one of several processes, in a Scoreboard."""

    def __init__(self, rows: memoryview, worker: int, peer_table: PeerTable) -> None:
        self._rows = rows
        self._row = 2 * worker
        super().__init__(peer_table)

    @property
    def connections(self) -> int:
        return self._rows[self._row]

    @connections.setter
    def connections(self, number: int) -> None:
        self._rows[self._row] = number

    @property
    def associations(self) -> int:
        return self._rows[self._row + 1]

    @associations.setter
    def associations(self, number: int) -> None:
        self._rows[self._row + 1] = number

    @property
    def all_associations(self) -> int:
        return sum(self._rows[1::2])

    @property
    def has_fewest(self) -> bool:
        return self.connections <= min(self._rows[0::2])


class Scoreboard:
    """A row of counts for each process, in shared memory: each writes its own row and reads all.

    `fd` is a descriptor of the memory, which each process maps. Raises OSError if mapping fails.
    """

    def __init__(self, fd: int, workers: int) -> None:
        self.fd = fd
        memory = memoryview(mmap.mmap(fd, _size(workers)))
        self._rows = memory[: _ROW_BYTES * workers].cast("I")
        self._table = memory[_ROW_BYTES * workers :]

    @classmethod
    def create(cls, workers: int) -> Scoreboard:
        fd = os.memfd_create("oxidicom-load")
        os.ftruncate(fd, _size(workers))
        table = cls(fd, workers)
        for worker in range(workers):
            table.vacate(worker)
        return table

    def counts(self, worker: int) -> SharedConnectionCounts:
        """Return the counts in the row of process `worker` (from 0), which begins to accept."""
        return SharedConnectionCounts(self._rows, worker, SharedPeerTable(self._table, worker))

    def vacate(self, worker: int) -> None:
        """Clear the row of a process that has ended."""
        self._rows[2 * worker] = _VACANT_ROW
        self._rows[2 * worker + 1] = 0
        clear_part(self._table, worker)


def _size(workers: int) -> int:
    return _ROW_BYTES * workers + peer_table_size(workers)


class SharedPort:
    """Accepts connections on sockets that it shares with other processes.

    A process that has more connections than another one leaves a new connection to it for some
    milliseconds, and then accepts what is still there: the other one may hang in slow storage.
    """

    def __init__(self, sockets: Sequence[socket.socket], counts: SharedConnectionCounts) -> None:
        self._sockets = tuple(sockets)
        self._counts = counts
        self._loop = asyncio.get_running_loop()
        self._make: Callable[[], asyncio.BaseProtocol]
        self._waiting: dict[socket.socket, asyncio.TimerHandle] = {}
        self._accepted: set[asyncio.Task[None]] = set()

    def open(self, make: Callable[[], asyncio.BaseProtocol]) -> None:
        """Begin to accept; `make` returns the protocol of a connection."""
        self._make = make
        for listening in self._sockets:
            listening.setblocking(False)
            self._loop.add_reader(listening, self._on_connection, listening)

    def close(self) -> None:
        for handle in self._waiting.values():
            handle.cancel()
        self._waiting.clear()
        for listening in self._sockets:
            self._loop.remove_reader(listening)
            listening.close()
        self._sockets = ()

    def _on_connection(self, listening: socket.socket) -> None:
        if self._counts.has_fewest:
            self._accept(listening)
        else:
            self._step_aside(listening, STEP_ASIDE_S)

    def _step_aside(self, listening: socket.socket, seconds: float) -> None:
        self._loop.remove_reader(listening)
        self._waiting[listening] = self._loop.call_later(seconds, self._accept_again, listening)

    def _accept_again(self, listening: socket.socket) -> None:
        del self._waiting[listening]
        self._loop.add_reader(listening, self._on_connection, listening)
        self._accept(listening)

    def _accept(self, listening: socket.socket) -> None:
        """Accept one connection only: the next one may be for another process."""
        try:
            connection, _ = listening.accept()
        except OSError as error:
            if error.errno in _SCARCE:
                event(logger, logging.ERROR, "cannot accept connections; retrying", error=error)
                if listening not in self._waiting:
                    self._step_aside(listening, ACCEPT_PAUSE_S)
            # Any other errno means that another process accepted it or the peer disconnected.
            return
        connection.setblocking(False)
        # Counted now, so that other processes see it before the loop has made its transport.
        self._counts.connections += 1
        task = self._loop.create_task(self._connect(connection))
        self._accepted.add(task)
        task.add_done_callback(self._accepted.discard)

    async def _connect(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make, connection)
        except OSError as error:
            self._counts.connections -= 1
            connection.close()
            event(logger, logging.DEBUG, "connection lost before it was accepted", error=error)


def listening_sockets(host: str, port: int, backlog: int) -> list[socket.socket]:
    """Return a socket for each address of `host`, for processes to inherit. Raises OSError."""
    if host == "::" and socket.has_dualstack_ipv6():
        return [
            socket.create_server(
                (host, port), family=socket.AF_INET6, backlog=backlog, dualstack_ipv6=True
            )
        ]
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, address in dict.fromkeys((each[0], each[4]) for each in found):
            sockets.append(
                socket.create_server(
                    address[:2], family=socket.AddressFamily(family), backlog=backlog
                )
            )
    except OSError:
        for each in sockets:
            each.close()
        raise
    return sockets
