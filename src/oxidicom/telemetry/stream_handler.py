"""A log handler for a stream whose reader may stall or be gone.

The standard output of a container is a pipe. While nothing reads it, `write` blocks, and with it
the event loop that logs. This handler therefore waits a limited time for each line; a line that it
cannot write in that time is dropped and counted.
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
"""Seconds to wait until a line can be written. They are well below the 50 ms by which one peer may
delay others."""

_ATOMIC_WRITE_BYTES: Final = select.PIPE_BUF
"""Number of bytes that a pipe takes at once when poll(2) reports it as writable (POSIX)."""


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
            else:  # after a dropped line, do not wait until writing has succeeded again
                written = self._write(self._encode(self._dropped_record()) + line, 0)
            self._dropped = 0 if written else self._dropped + 1
        except Exception:
            # Not `handleError`: it prints the arguments of the record, which may be patient data.
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
        """Write `line`; return whether all of it was written within `timeout_s` seconds."""
        if self._stream.closed:
            return False  # another file may have the same descriptor number now
        if self._fd is None:
            self._stream.write(line.decode())
            self._stream.flush()
            return True
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()  # text that was printed before must come first
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
