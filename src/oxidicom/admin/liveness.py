"""Liveness: whether the event loops of the receiving processes still run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

HEARTBEAT_INTERVAL_S: Final = 1.0
"""Seconds from one heartbeat of a process to the next."""

WORKER_SILENT_AFTER_S: Final = 10.0
"""Seconds without a heartbeat after which a receiving process counts as not responding."""

RECEIVER_DEAD_AFTER_S: Final = 60.0
"""Seconds without a heartbeat of any process after which `/livez` fails."""


class Heartbeat:
    """Calls `beat` at once, and then at intervals on the running loop until `stop` is called."""

    def __init__(self, beat: Callable[[], None]) -> None:
        self._beat = beat
        self._loop = asyncio.get_running_loop()
        self._send()

    def _send(self) -> None:
        self._beat()
        self._timer = self._loop.call_later(HEARTBEAT_INTERVAL_S, self._send)

    def stop(self) -> None:
        self._timer.cancel()


class Liveness:
    """Records the time of the latest heartbeat of each receiving process, by its number.

    One thread records, any thread may read. `clock` returns seconds of a monotonic clock.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last_beats: dict[int, float] = {}
        self._latest = clock()

    def beat(self, number: int) -> None:
        """Record a heartbeat of process `number`."""
        self._last_beats[number] = self._latest = self._clock()

    def died(self, number: int) -> None:
        """Forget process `number`, which has ended."""
        self._last_beats.pop(number, None)

    def responding(self) -> int:
        """Return the number of processes with a heartbeat in the last `WORKER_SILENT_AFTER_S`."""
        earliest = self._clock() - WORKER_SILENT_AFTER_S
        return sum(beat > earliest for beat in self._last_beats.copy().values())

    def silence(self) -> float:
        """Return the seconds since the latest heartbeat of any process, or since the creation of
        this object if there was none."""
        return self._clock() - self._latest
