"""Readers of data sets: a walker, or an inflater if the data set is deflated (PS3.5 A.5)."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

from oxidicom._dataset import EXPLICIT_LE, Walker
from oxidicom.constants import Encoding

if TYPE_CHECKING:
    from typing_extensions import Buffer

INFLATE_STEP_BYTES: Final = 64 * 1024
"""Greatest number of bytes inflated in one step: a few fed bytes may expand to very many."""

MAX_INFLATED_BYTES: Final = 16 * 1024 * 1024
"""Number of inflated bytes within which the needed elements must lie (decision 24). The headers of
real data sets are far smaller."""


class Inflater:
    """Reads a deflated data set: takes raw deflate data (RFC 1951) and feeds a `Walker`.

    Its methods and attributes are those of `Walker`.
    """

    __slots__ = ("_error", "_inflated", "_stream", "_walker", "asleep", "failed")

    def __init__(self) -> None:
        self._walker = Walker(EXPLICIT_LE)
        self._stream = zlib.decompressobj(-zlib.MAX_WBITS)
        self._inflated = 0
        self._error: str | None = None
        self.asleep = False
        self.failed = False

    def feed(self, buffer: Buffer, start: int, stop: int) -> bool:
        """Read bytes [start, stop) of `buffer`; return True once no further bytes are needed.

        Raises ValueError if they do not lie in the buffer.
        """
        if self.asleep:
            return True
        if not 0 <= start <= stop <= memoryview(buffer).nbytes:
            raise ValueError("start and stop do not lie in the buffer")
        pending = memoryview(buffer)[start:stop]
        while not self.asleep:
            room = min(INFLATE_STEP_BYTES, MAX_INFLATED_BYTES - self._inflated)
            before = self._stream.copy()
            try:
                chunk = self._stream.decompress(pending, room)
            except zlib.error:
                self._inflate_up_to_error(before, pending)
                break
            self._walk(chunk)
            pending = memoryview(self._stream.unconsumed_tail)
            if self._stream.eof:
                # At most padding follows (PS3.5 A.5). Stop here: the stream object would keep any
                # further bytes in memory.
                self.finish()
            elif not pending and len(chunk) < room:
                break
        return self.asleep

    def _inflate_up_to_error(self, stream: zlib._Decompress, broken: memoryview) -> None:
        """Walk the output of `broken` that precedes the byte at which the stream is invalid.

        A zlib call that raises loses all its output, up to INFLATE_STEP_BYTES. Without this search
        the result would depend on how the data set is divided into fragments.
        """
        while len(broken) > 1 and not self.asleep:
            half = len(broken) // 2
            attempt = stream.copy()
            try:
                chunk = attempt.decompress(broken[:half])
            except zlib.error:
                broken = broken[:half]
            else:
                self._walk(chunk)
                stream, broken = attempt, broken[half:]
        if not self.asleep:
            self._fail("not a raw deflate stream")

    def finish(self) -> None:
        """End the data set. As with `Walker.finish`, `failed` is True if it ended too early."""
        if not self.asleep:
            self._walker.finish()
            self.asleep = True
            self.failed = self._walker.failed

    def _walk(self, chunk: bytes) -> None:
        self._inflated += len(chunk)
        self.asleep = self._walker.feed(chunk, 0, len(chunk))
        self.failed = self._walker.failed
        if not self.asleep and self._inflated >= MAX_INFLATED_BYTES:
            self._fail("needed tags not within 16 MiB inflated")

    def _fail(self, error: str) -> None:
        self._error = error
        self.asleep = self.failed = True

    @property
    def error(self) -> str | None:
        return self._error or self._walker.error

    @property
    def offending(self) -> int:
        return self._walker.offending

    def series_values(self) -> tuple[bytes | None, ...]:
        return self._walker.series_values()

    @property
    def sop_instance_uid(self) -> bytes | None:
        return self._walker.sop_instance_uid

    @property
    def instance_number(self) -> bytes | None:
        return self._walker.instance_number

    @property
    def vrs(self) -> bytes:
        return self._walker.vrs


Reader = Walker | Inflater


def reader_for(encoding: Encoding) -> Reader:
    """Return a new reader for one data set in `encoding`."""
    return Inflater() if encoding is Encoding.DEFLATED else Walker(encoding)
