"""A clock that tests advance, and waiting for what has no event."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class FakeTime:
    """A clock that stops until `advance`, which also ends the sleeps that are over then."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        self._sleepers: deque[tuple[float, asyncio.Future[None]]] = deque()

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        sleeper = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.now + seconds, sleeper))
        await sleeper

    def advance(self, seconds: float) -> None:
        self.now += seconds
        for until, sleeper in self._sleepers:
            if until <= self.now and not sleeper.done():
                sleeper.set_result(None)
        self._sleepers = deque(pair for pair in self._sleepers if not pair[1].done())

    @property
    def next_wake(self) -> float | None:
        """Seconds until the next sleep ends; None if nothing sleeps."""
        remaining = [until - self.now for until, sleeper in self._sleepers if not sleeper.done()]
        return min(remaining, default=None)


async def until(condition: Callable[[], object]) -> None:
    """Let the loop and other threads run until `condition()` holds, for at most 5 s."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 (what is waited for has no event)
            await asyncio.sleep(0.001)
