"""Log lines to a file descriptor whose reader may stall or be gone.

A container's standard output is a pipe. When nobody empties it, `write` blocks, and with it the
event loop that logs: so a line waits a moment and is then dropped and counted.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import select
import time
from typing import Final, TextIO

PATIENCE_S: Final = 0.02
"""Well under the 50 ms by which one peer's trouble may delay others."""

_CHUNK: Final = select.PIPE_BUF
"""Bytes: a pipe that polls writable takes this many at once (POSIX)."""


class BoundedStreamHandler(logging.Handler):
    """Write records to `stream`, each within `PATIENCE_S` or not at all; never raises."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._dropped = 0
        self._torn = False
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
                written = self._write(line, PATIENCE_S)
            else:  # who stalled once is not waited for again
                written = self._write(self._encode(self._confession()) + line, 0)
            self._dropped = 0 if written else self._dropped + 1
        except Exception:
            # Not `handleError`: it prints the arguments of the record, whatever they hold.
            self._dropped += 1

    def _encode(self, record: logging.LogRecord) -> bytes:
        return (self.format(record) + "\n").encode("utf-8", "backslashreplace")

    def _confession(self) -> logging.LogRecord:
        record = logging.LogRecord(
            __name__, logging.WARNING, __file__, 0, "log lines dropped", None, None
        )
        record.fields = {"count": self._dropped}
        return record

    def _write(self, line: bytes, patience: float) -> bool:
        if self._stream.closed:
            return False  # its descriptor may be another file's by now
        if self._fd is None:
            self._stream.write(line.decode())
            self._stream.flush()
            return True
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()  # what others printed comes first
        rest = memoryview(b"\n" + line if self._torn else line)
        whole = len(rest)
        deadline = time.monotonic() + patience
        while rest:
            wait = max(0.0, deadline - time.monotonic())
            if not self._poll.poll(wait * 1000):
                break
            try:
                rest = rest[os.write(self._fd, rest[:_CHUNK]) :]
            except BlockingIOError:
                if wait == 0:
                    break
                time.sleep(0.001)
            except OSError:
                break
        if len(rest) < whole:
            self._torn = bool(rest)
        return not rest
