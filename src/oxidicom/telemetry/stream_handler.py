"""Log lines for a file descriptor whose reader may stall or be gone.

The standard output of a container is a pipe. While nothing reads it, `write` blocks, and with it
the event loop that logs. A line therefore waits a moment and is then dropped and counted.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import select
import time
from typing import Final, TextIO

LOG_WRITE_TIMEOUT_S: Final = 0.02
"""Seconds for one line; well under the 50 ms by which one peer may delay others."""

_ATOMIC_WRITE_BYTES: Final = select.PIPE_BUF
"""Bytes that a pipe which polls as writable takes at once (POSIX)."""


class BoundedStreamHandler(logging.Handler):
    """Writes each record to `stream` within `LOG_WRITE_TIMEOUT_S`, or drops it; never raises."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._dropped = 0
        self._line_incomplete = False
        self._poll = select.poll()
        try:
            self._fd: int | None = stream.fileno()
            self._poll.register(self._fd, select.POLLOUT)
        except (OSError, ValueError, AttributeError, io.UnsupportedOperation):
            self._fd = None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self._encode(record)
            if not self._dropped:
                written = self._write(line, LOG_WRITE_TIMEOUT_S)
            else:  # a reader that stalled is not waited for again
                written = self._write(self._encode(self._dropped_record()) + line, 0)
            self._dropped = 0 if written else self._dropped + 1
        except Exception:
            # Not `handleError`: it prints the arguments of the record, whatever they hold.
            self._dropped += 1

    def _encode(self, record: logging.LogRecord) -> bytes:
        return (self.format(record) + "\n").encode("utf-8", "backslashreplace")

    def _dropped_record(self) -> logging.LogRecord:
        record = logging.LogRecord(
            "oxidicom.telemetry", logging.WARNING, __file__, 0, "log lines dropped", None, None
        )
        record.fields = {"count": self._dropped}
        return record

    def _write(self, line: bytes, timeout_s: float) -> bool:
        """Write `line`; return whether all of it was written in time."""
        if self._stream.closed:
            return False  # another file may have its descriptor by now
        if self._fd is None:
            self._stream.write(line.decode())
            self._stream.flush()
            return True
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()  # keep the order with what was printed
        rest = memoryview(b"\n" + line if self._line_incomplete else line)
        whole = len(rest)
        deadline = time.monotonic() + timeout_s
        while rest:
            wait = max(0.0, deadline - time.monotonic())
            if not self._poll.poll(wait * 1000):
                break
            try:
                rest = rest[os.write(self._fd, rest[:_ATOMIC_WRITE_BYTES]) :]
            except BlockingIOError:
                if wait == 0:
                    break
                time.sleep(0.001)
            except OSError:
                break
        if len(rest) < whole:
            self._line_incomplete = bool(rest)
        return not rest
