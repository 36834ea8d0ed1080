"""Deflated Explicit VR Little Endian (PS3.5 A.5), inflated as far as the walker reads."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

from oxidicom._dataset import EXPLICIT_LE, Walker
from oxidicom.constants import Encoding

if TYPE_CHECKING:
    from typing_extensions import Buffer

INFLATE_STEP_BYTES: Final = 64 * 1024
"""Bytes inflated at a time, however far a few fed bytes would expand."""

MAX_INFLATED_BYTES: Final = 16 * 1024 * 1024
"""Bytes inflated of one data set (decision 24); the headers of real data sets are far smaller."""


class Inflater:
    """A `Walker` for deflated data sets: same attributes, fed with raw deflate (RFC 1951)."""

    __slots__ = ("_error", "_inflated", "_stream", "_walker", "asleep", "failed")

    def __init__(self) -> None:
        self._walker = Walker(EXPLICIT_LE)
        self._stream = zlib.decompressobj(-zlib.MAX_WBITS)
        self._inflated = 0
        self._error: str | None = None
        self.asleep = False
        self.failed = False

    def feed(self, buffer: Buffer, start: int, stop: int) -> bool:
        """Take bytes [start, stop) of `buffer`; see `Walker.feed`."""
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
                # Padding follows (PS3.5 A.5), or more, which the stream object would collect.
                self.finish()
            elif not pending and len(chunk) < room:
                break
        return self.asleep

    def _inflate_up_to_error(self, stream: zlib._Decompress, broken: memoryview) -> None:
        """Walk what comes out of `broken` before the byte that breaks the stream.

        An error loses the output of its whole call, up to INFLATE_STEP_BYTES; how much would depend
        on the cuts between feeds.
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
        """The data set has ended; see `Walker.finish`."""
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
    """A fresh reader for one data set."""
    return Inflater() if encoding is Encoding.DEFLATED else Walker(encoding)
