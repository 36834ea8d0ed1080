"""Timetables of open-loop senders: when each instance is due, independently of the one before."""

from __future__ import annotations

import ctypes
import time
from typing import NamedTuple

_PR_SET_TIMERSLACK = 29


class Timetable(NamedTuple):
    """The timetable of one sender, in seconds."""

    offset: float
    """Seconds from the common beginning until its first instance is due."""
    interval: float

    def due(self, number: int, began: float) -> float:
        return began + self.offset + number * self.interval


def timetables(per_second: float, senders: int) -> list[Timetable]:
    """Return the timetables of `senders` that together offer `per_second` instances, evenly and in
    turn."""
    return [Timetable(n / per_second, senders / per_second) for n in range(senders)]


def wait_exactly() -> None:
    """Let this process' sleeps end on time, not 50 µs later (prctl(2))."""
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)


def sleep_until(due: float) -> None:
    """Sleep until `due`, a time of the monotonic clock."""
    left = due - time.monotonic()
    if left > 0:
        time.sleep(left)
