"""Senders that cost little more than their system calls: a process each, sockets only."""

from __future__ import annotations

import multiprocessing
import socket
import struct
import time
from multiprocessing.connection import Connection
from typing import NamedTuple, Self

from benchmarks.encoding import (
    RELEASE_RQ,
    Series,
    associate_rq,
    encode_series,
    peer_max_length,
    status_of,
)

TIMEOUT = 60
"""Seconds without any progress after which a sender gives up."""

MAX_LENGTH = 131072
"""Bytes of the longest P-DATA-TF that is sent, even where a receiver would take longer ones."""


class Work(NamedTuple):
    """What one association sends."""

    series: int
    instances: int
    size: int
    """Bytes of one data set."""


class Sent(NamedTuple):
    """What one association saw; times are of the machine's monotonic clock."""

    began: float
    ended: float
    stored: int
    error: str | None


class Load(NamedTuple):
    """What the associations of one trial saw together."""

    seconds: float
    stored: int
    errors: list[str]


class SendError(Exception):
    """The receiver did not do its part."""


class Senders:
    """Associations at one receiver, each in a process of its own.

    Entering associates and encodes everything, `send` only sends, leaving releases; so what is
    measured around `send` is the receiving of instances and nothing else.
    """

    def __init__(self, port: int, works: list[Work]) -> None:
        context = multiprocessing.get_context("fork")
        self._children = []
        self._pipes: list[Connection] = []
        for work in works:
            ours, theirs = context.Pipe()
            self._pipes.append(ours)
            arguments = (port, work, theirs, self._pipes)
            self._children.append(context.Process(target=_child, args=arguments, daemon=True))
            self._children[-1].start()
            theirs.close()

    def __enter__(self) -> Self:
        self._errors = [str(said) for said in self._hear() if said is not None]
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in self._pipes:
            pipe.close()  # which is the sign to release
        for child in self._children:
            child.join(TIMEOUT)
            if child.is_alive():
                child.kill()
                child.join()
            child.close()

    def send(self) -> Load:
        """Send everything; nothing at all where an association was not accepted."""
        if self._errors:
            return Load(0.0, 0, self._errors)
        for pipe in self._pipes:
            pipe.send("go")
        sent = [said for said in self._hear() if isinstance(said, Sent)]
        errors = [one.error for one in sent if one.error]
        if len(sent) < len(self._pipes):
            errors.append("a sender ended early")
        if not sent:
            return Load(0.0, 0, errors)
        seconds = max(one.ended for one in sent) - min(one.began for one in sent)
        return Load(seconds, sum(one.stored for one in sent), errors)

    def _hear(self) -> list[object]:
        said: list[object] = []
        for pipe in self._pipes:
            try:
                said.append(pipe.recv())
            except EOFError:
                said.append("a sender ended early")
        return said


def _child(port: int, work: Work, pipe: Connection, inherited: list[Connection]) -> None:
    for other in inherited:  # or else nobody would see the parent close its end
        other.close()
    try:
        connection, max_length = _associate(port)
        series = encode_series(work.series, work.instances, work.size, max_length)
    except (OSError, SendError, ValueError) as error:
        pipe.send(f"no association: {error}")
        return
    with connection:
        pipe.send(None)
        try:
            pipe.recv()
            pipe.send(_store(connection, series))
            pipe.recv()
        except EOFError:
            pass
        try:
            connection.sendall(RELEASE_RQ)
            _receive_pdu(connection, bytearray(4096))
        except (OSError, SendError):
            pass  # whatever was wrong has been reported with the instances


def _associate(port: int) -> tuple[socket.socket, int]:
    connection = socket.create_connection(("127.0.0.1", port), TIMEOUT)
    try:
        # The kernel's time limits: Python's own would cost a poll(2) for every call.
        connection.settimeout(None)
        limit = struct.pack("ll", TIMEOUT, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(associate_rq("ChRIS", "BENCHMARK"))
        buffer = bytearray(65536)
        answer = bytes(buffer[: _receive_pdu(connection, buffer)])
        if answer[0] != 2:
            raise SendError(f"answered by a PDU of type {answer[0]}")
        return connection, min(peer_max_length(answer), MAX_LENGTH)
    except BaseException:
        connection.close()
        raise


def _store(connection: socket.socket, series: Series) -> Sent:
    buffer = bytearray(4096)
    stored, error = 0, None
    began = time.monotonic()
    try:
        for head in series.heads:
            whole = len(head) + len(series.tail)
            sent = connection.sendmsg((head, series.tail))
            if sent < whole:
                connection.sendall((head + series.tail)[sent:])
            _receive_pdu(connection, buffer)
            status = status_of(buffer)
            if status is None:
                raise SendError(f"answered by a PDU {buffer[:10].hex(' ')}")
            if status != 0:
                raise SendError(f"status {status:#06x}")
            stored += 1
    except (OSError, SendError) as stop:
        error = f"after {stored} instances: {stop}"
    return Sent(began, time.monotonic(), stored, error)


def _receive_pdu(connection: socket.socket, buffer: bytearray) -> int:
    """Read one PDU to the beginning of `buffer`; its whole length."""
    have = connection.recv_into(buffer)
    while have < 6 or have < 6 + int.from_bytes(buffer[2:6]):
        more = connection.recv_into(memoryview(buffer)[have:])
        if not more:
            raise SendError("the receiver closed the connection")
        have += more
    return have
