"""Whether the receiving processes' loops turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

BEAT: Final = 1.0
"""Seconds from one beat to the next."""

SILENT: Final = 10.0
"""Seconds without one, after which a process does not count as answering."""

DEAD: Final = 60.0
"""Seconds without any from any, after which we had better be started again."""


class Heartbeat:
    """Calls `beat` from the running loop, for as long as that turns."""

    def __init__(self, beat: Callable[[], None]) -> None:
        self._beat = beat
        self._loop = asyncio.get_running_loop()
        self._turn()

    def _turn(self) -> None:
        self._beat()
        self._timer = self._loop.call_later(BEAT, self._turn)

    def stop(self) -> None:
        self._timer.cancel()


class Liveness:
    """When each was last heard of, by its number. Written on one thread, read on any."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._beats: dict[int, float] = {}
        self._latest = clock()

    def beat(self, number: int) -> None:
        self._beats[number] = self._latest = self._clock()

    def died(self, number: int) -> None:
        self._beats.pop(number, None)

    def answering(self) -> int:
        """How many."""
        recent = self._clock() - SILENT
        return sum(beat > recent for beat in self._beats.copy().values())

    def silence(self) -> float:
        """Seconds since the last beat of any."""
        return self._clock() - self._latest
