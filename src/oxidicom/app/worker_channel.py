"""One end of the stream between a worker and the control process, used on the main loop of each."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import time
from collections.abc import Callable
from typing import Final

from oxidicom.app.worker_messages import FrameSplitter, framed

MAX_CHANNEL_RECV_BYTES: Final = 256 * 1024
"""Number of bytes to read at one time, before other callbacks of the loop run."""

CHANNEL_PAUSE_S: Final = 0.02
"""Seconds for which nothing is read after `may_read` has returned False."""

SEND_BUFFER_BYTES: Final = 1 << 20
"""Requested size of the kernel's send buffer in bytes; the system may allow less."""


class WorkerChannel:
    """A stream of frames in both directions over the stream socket `end`.

    `on_frame` is called with each payload, `on_closed` once, when the other side has closed the
    stream. `send` never waits and never fails: frames are kept until the other side reads, and
    dropped if it is gone. While `may_read` returns False nothing is read, so that frames stay with
    the other side.
    """

    def __init__(
        self,
        end: socket.socket,
        on_frame: Callable[[bytearray], None],
        on_closed: Callable[[], None],
        may_read: Callable[[], bool] = lambda: True,
    ) -> None:
        end.setblocking(False)
        self._socket = end
        self._on_frame = on_frame
        self._on_closed = on_closed
        self._may_read = may_read
        self._loop = asyncio.get_running_loop()
        self._splitter = FrameSplitter()
        self._unsent = bytearray()
        self._writer_added = False
        self._closed = False
        self._paused: asyncio.TimerHandle | None = None
        self._loop.add_reader(end, self._read)

    @property
    def unsent_bytes(self) -> int:
        """Number of bytes not yet in the kernel's buffer, because the other side does not read."""
        return len(self._unsent)

    def close(self) -> None:
        """Close this end; unsent bytes are dropped. `on_closed` is not called."""
        if self._paused is not None:
            self._paused.cancel()
            self._paused = None
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket.close()
        self._unsent.clear()
        self._closed = True

    # ---- in ------------------------------------------------------------------------------

    def _resume(self) -> None:
        self._paused = None
        self._loop.add_reader(self._socket, self._read)

    def _read(self) -> None:
        if not self._may_read():
            self._loop.remove_reader(self._socket)
            self._paused = self._loop.call_later(CHANNEL_PAUSE_S, self._resume)
            return
        try:
            data = self._socket.recv(MAX_CHANNEL_RECV_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            self._on_closed()
            return
        for frame in self._splitter.feed(data):
            self._on_frame(frame)

    # ---- out -----------------------------------------------------------------------------

    def send(self, payload: bytes) -> None:
        """Send one frame, now or when the other side reads. Ignored after the stream is closed."""
        if self._closed:
            return
        self._unsent += framed(payload)
        if not self._writer_added:
            self._write()

    def _write(self) -> None:
        self._send_some()
        if self._closed:
            return
        if self._unsent and not self._writer_added:
            self._loop.add_writer(self._socket, self._write)
        elif self._writer_added and not self._unsent:
            self._loop.remove_writer(self._socket)
        self._writer_added = bool(self._unsent)

    def _send_some(self) -> None:
        try:
            del self._unsent[: self._socket.send(self._unsent)]
        except BlockingIOError:
            pass
        except OSError:
            # The other side is gone; `_read` finds that out and calls `on_closed`.
            self._unsent.clear()

    def wait_until_sent(self, max_unsent: int, timeout: float | None = None) -> bool:
        """Block the loop until at most `max_unsent` bytes are unsent.

        Return True then, or if the other side is gone; False if more are unsent after `timeout`
        seconds. None means no time limit.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT)
        while len(self._unsent) > max_unsent:
            remaining = None if deadline is None else deadline - time.monotonic()
            if remaining is not None and remaining <= 0:
                return False
            poll.poll(None if remaining is None else remaining * 1000)
            self._send_some()
        return True


def socket_pair(kind: int) -> tuple[socket.socket, socket.socket]:
    """Return two connected Unix sockets of the type `kind`, such as socket.SOCK_STREAM.

    A child process inherits one only through `pass_fds`. Raises OSError.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    for end in (ours, theirs):
        # A failure is ignored: a smaller buffer works, too.
        with contextlib.suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    return ours, theirs
