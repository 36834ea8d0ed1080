"""One end of the stream between a worker and the notifier, on its process' loop."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import time
from collections.abc import Callable
from typing import Final

from oxidicom.app.worker_messages import Frames, framed

AT_ONCE: Final = 256 * 1024
"""Bytes read before others on the loop have their turn."""

PAUSE: Final = 0.02
"""Seconds for which nothing is read when nothing may be."""


class WorkerChannel:
    """`received` gets each frame, `closed` is called once, when the other side is gone.

    Sending never waits and never fails: what the other side does not read is kept, and what it
    will never read is dropped. While it is not so that `may_read`, the other side's words wait
    with it.
    """

    def __init__(
        self,
        end: socket.socket,
        received: Callable[[bytearray], None],
        closed: Callable[[], None],
        may_read: Callable[[], bool] = lambda: True,
    ) -> None:
        end.setblocking(False)
        self._socket = end
        self._received = received
        self._closed = closed
        self._may_read = may_read
        self._loop = asyncio.get_running_loop()
        self._frames = Frames()
        self._waiting = bytearray()
        self._writing = False
        self._gone = False
        self._paused: asyncio.TimerHandle | None = None
        self._loop.add_reader(end, self._read)

    @property
    def waiting(self) -> int:
        """Bytes that the other side has yet to read."""
        return len(self._waiting)

    def close(self) -> None:
        if self._paused is not None:
            self._paused.cancel()
            self._paused = None
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket.close()
        self._waiting.clear()
        self._gone = True

    # ---- in ------------------------------------------------------------------------------

    def _resume(self) -> None:
        self._paused = None
        self._loop.add_reader(self._socket, self._read)

    def _read(self) -> None:
        if not self._may_read():
            self._loop.remove_reader(self._socket)
            self._paused = self._loop.call_later(PAUSE, self._resume)
            return
        try:
            data = self._socket.recv(AT_ONCE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            self._closed()
            return
        for frame in self._frames.feed(data):
            self._received(frame)

    # ---- out -----------------------------------------------------------------------------

    def send(self, payload: bytes) -> None:
        if self._gone:
            return
        self._waiting += framed(payload)
        if not self._writing:
            self._write()

    def _write(self) -> None:
        self._send_some()
        if self._gone:
            return
        if self._waiting and not self._writing:
            self._loop.add_writer(self._socket, self._write)
        elif self._writing and not self._waiting:
            self._loop.remove_writer(self._socket)
        self._writing = bool(self._waiting)

    def _send_some(self) -> None:
        try:
            del self._waiting[: self._socket.send(self._waiting)]
        except BlockingIOError:
            pass
        except OSError:
            # Gone: reading will tell.
            self._waiting.clear()

    def wait_until_sent(self, most: int, timeout: float | None = None) -> bool:
        """Stand still, with the whole loop, until at most `most` bytes wait, for at most `timeout`
        seconds; whether that came to be."""
        deadline = None if timeout is None else time.monotonic() + timeout
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT)
        while len(self._waiting) > most:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            poll.poll(None if left is None else left * 1000)
            self._send_some()
        return True


def socket_pair(kind: int) -> tuple[socket.socket, socket.socket]:
    """Ends for two processes; not inheritable but by `pass_fds`."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    for end in (ours, theirs):
        # As much as the system allows; less is less room, and no error.
        with contextlib.suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    return ours, theirs
