"""One port for several receiving processes: which of them takes the next connection, and how many
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
from oxidicom.net.peers import PeerTable, SharedPeerTable, peer_table_size, wipe

logger = logging.getLogger("oxidicom.net")

STEP_ASIDE: Final = 0.005
"""Seconds for which a connection is left to processes that have fewer: a busy one comes to look
within a millisecond or two, and an association that lands beside another one shares its core for
as long as it lives."""

NO_HANDLES: Final = 1.0
"""Seconds without accepting after the system had no file handle left."""

_SCARCE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_ROW: Final = 8
"""Bytes: connections and associations, of 32 bits each, so that each is written in one step."""
_VACANT: Final = 2**32 - 1
"""Connections of a process that takes none: nobody waits for it."""


class Seats:
    """How many connections and associations this process has, beside no other."""

    def __init__(self, board: PeerTable | None = None) -> None:
        self.connections = 0
        self.associations = 0
        self.board = PeerTable() if board is None else board
        """By peer."""

    @property
    def all_associations(self) -> int:
        return self.associations


class SharedSeats(Seats):
    """One process' row of a Scoreboard."""

    def __init__(self, rows: memoryview, worker: int, board: PeerTable) -> None:
        self._rows = rows
        self._row = 2 * worker
        super().__init__(board)

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
    """Rows of all processes, in memory that they share: each writes its own, everybody reads all.

    `fd` goes to the processes, which make theirs of it. Raises OSError.
    """

    def __init__(self, fd: int, workers: int) -> None:
        self.fd = fd
        memory = memoryview(mmap.mmap(fd, _size(workers)))
        self._rows = memory[: _ROW * workers].cast("I")
        self._board = memory[_ROW * workers :]

    @classmethod
    def create(cls, workers: int) -> Scoreboard:
        fd = os.memfd_create("oxidicom-load")
        os.ftruncate(fd, _size(workers))
        table = cls(fd, workers)
        for worker in range(workers):
            table.vacate(worker)
        return table

    def seats(self, worker: int) -> SharedSeats:
        """Of a process that takes connections from now on."""
        return SharedSeats(self._rows, worker, SharedPeerTable(self._board, worker))

    def vacate(self, worker: int) -> None:
        """Of one that takes no more: it has ended."""
        self._rows[2 * worker] = _VACANT
        self._rows[2 * worker + 1] = 0
        wipe(self._board, worker)


def _size(workers: int) -> int:
    return _ROW * workers + peer_table_size(workers)


class SharedPort:
    """Accepts at sockets that other processes accept at, too.

    Whoever has more connections than another process leaves a new one to it for some milliseconds,
    and then takes what is still there: the other one may hang in slow storage.
    """

    def __init__(self, sockets: Sequence[socket.socket], seats: SharedSeats) -> None:
        self._sockets = tuple(sockets)
        self._seats = seats
        self._loop = asyncio.get_running_loop()
        self._make: Callable[[], asyncio.BaseProtocol]
        self._waiting: dict[socket.socket, asyncio.TimerHandle] = {}
        self._accepted: set[asyncio.Task[None]] = set()

    def open(self, make: Callable[[], asyncio.BaseProtocol]) -> None:
        """Begin to accept; `make` gives each connection its protocol."""
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
        if self._seats.has_fewest:
            self._accept(listening)
        else:
            self._step_aside(listening, STEP_ASIDE)

    def _step_aside(self, listening: socket.socket, seconds: float) -> None:
        self._loop.remove_reader(listening)
        self._waiting[listening] = self._loop.call_later(seconds, self._come_back, listening)

    def _come_back(self, listening: socket.socket) -> None:
        del self._waiting[listening]
        self._loop.add_reader(listening, self._on_connection, listening)
        self._accept(listening)

    def _accept(self, listening: socket.socket) -> None:
        """One only: the next may be another process'."""
        try:
            connection, _ = listening.accept()
        except OSError as error:
            if error.errno in _SCARCE:
                event(logger, logging.ERROR, "cannot accept connections; retrying", error=error)
                if listening not in self._waiting:
                    self._step_aside(listening, NO_HANDLES)
            # Else another process took it, or the peer is gone already.
            return
        connection.setblocking(False)
        # The others learn of it at once, and not when the loop has made it a transport.
        self._seats.connections += 1
        task = self._loop.create_task(self._connect(connection))
        self._accepted.add(task)
        task.add_done_callback(self._accepted.discard)

    async def _connect(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make, connection)
        except OSError as error:
            self._seats.connections -= 1
            connection.close()
            event(logger, logging.DEBUG, "connection lost before it was accepted", error=error)


def listening_sockets(host: str, port: int, backlog: int) -> list[socket.socket]:
    """One for each address of `host`, not blocking, for processes to inherit. Raises OSError."""
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
