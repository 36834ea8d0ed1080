"""One association of a sender, on blocking sockets."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Sequence
from typing import Self

from benchmarks.encoding import RELEASE_RQ, associate_rq, max_length_of, status_of
from benchmarks.instances import Series

TIMEOUT = 60
"""Seconds without progress after which a sender gives up."""

_LONGEST_ANSWER = 65536


class SendError(Exception):
    """The receiver did not do its part."""


class Association:
    """One association that opens on entering and is released on leaving.

    `request` is an encoded A-ASSOCIATE-RQ. With `nagle` Nagle's algorithm stays on, and command and
    data set are sent one after the other. Raises OSError or SendError where no association comes
    about.
    """

    def __init__(self, port: int, request: bytes, nagle: bool = False) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        self._buffer = bytearray(_LONGEST_ANSWER)
        self._nagle = nagle
        try:
            # The kernel's time limits: Python's own would cost a poll(2) for every call.
            self._socket.settimeout(None)
            limit = struct.pack("ll", TIMEOUT, 0)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            if not nagle:
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.sendall(request)
            answer = bytes(self._buffer[: self._receive_pdu()])
            try:
                self.max_length = max_length_of(answer)
            except ValueError as error:
                raise SendError(str(error)) from None
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # Whatever was wrong has been reported with the instances.
        with contextlib.suppress(OSError, SendError):
            self.release()
        self._socket.close()

    def release(self) -> None:
        """Release the association. Raises OSError or SendError where the release is not
        answered."""
        self._socket.sendall(RELEASE_RQ)
        self._receive_pdu()

    def store(self, series: Series, number: int) -> None:
        """Send one instance and wait for its Success. Raises OSError or SendError otherwise."""
        command, head, tail = series.commands[number], series.heads[number], series.tail
        if self._nagle:
            self._socket.sendall(command)
            self._send((head, tail))
        else:
            self._send((command, head, tail))
        for piece in series.rest:
            self._socket.sendall(piece)
        self._receive_pdu()
        status = status_of(self._buffer)
        if status is None:
            raise SendError(f"answered by a PDU {self._buffer[:10].hex(' ')}")
        if status != 0:
            raise SendError(f"status {status:#06x}")

    def _send(self, pieces: Sequence[bytes]) -> None:
        sent = self._socket.sendmsg(pieces)
        if sent < sum(map(len, pieces)):
            self._socket.sendall(b"".join(pieces)[sent:])

    def _receive_pdu(self) -> int:
        """Read one PDU to the beginning of the buffer, and return its whole length."""
        buffer = self._buffer
        have = 0
        while have < 6 or have < 6 + int.from_bytes(buffer[2:6]):
            more = self._socket.recv_into(memoryview(buffer)[have:])
            if not more:
                raise SendError("the receiver closed the connection")
            have += more
        return have


class IdleAssociations:
    """A number of associations that stay open and send nothing."""

    def __init__(self, port: int, count: int, transfer_syntax: str) -> None:
        request = associate_rq("ChRIS", "IDLE", transfer_syntax)
        self._open: list[Association] = []
        try:
            for number in range(count):
                try:
                    self._open.append(Association(port, request))
                except (OSError, SendError) as error:
                    raise SendError(f"idle association {number + 1}: {error}") from None
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for association in self._open:
            association.__exit__()
