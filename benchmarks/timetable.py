"""When each instance of an open-loop sender is due, whatever became of the one before it."""

from __future__ import annotations

import ctypes
import time
from typing import NamedTuple

_PR_SET_TIMERSLACK = 29


class Timetable(NamedTuple):
    """Of one sender; seconds."""

    offset: float
    """From the common beginning until its first instance is due."""
    interval: float

    def due(self, number: int, began: float) -> float:
        return began + self.offset + number * self.interval


def timetables(per_second: float, senders: int) -> list[Timetable]:
    """`senders` that together offer `per_second` instances, evenly and in turn."""
    return [Timetable(n / per_second, senders / per_second) for n in range(senders)]


def wait_exactly() -> None:
    """Let this process' sleeps end when they should, not 50 µs later (prctl(2))."""
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)


def sleep_until(due: float) -> None:
    """`due` is of the monotonic clock."""
    left = due - time.monotonic()
    if left > 0:
        time.sleep(left)
