"""Instances to CUBE while their series is still in reception, as the first generation did.

Best effort: whatever does not succeed here is left to the publication of the complete series, and
nothing is remembered of an instance but that CUBE has it. So memory stays flat through an outage.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from oxidicom.logevents import event
from oxidicom.notify.cube_bodies import EXPECTED
from oxidicom.notify.cube_http import CubeAway
from oxidicom.notify.cube_instances import InstanceRegistrar, side_by_side
from oxidicom.notify.cube_registered_files import SeriesRegistrations
from oxidicom.notify.outbox_relay import RegistrationRefused
from oxidicom.ports import Registration, SeriesInfo, SeriesKey
from oxidicom.ulid import uuid_of

MOST_WAITING: Final = 1000
"""Series with new instances; of more nothing is pushed early."""

LIST_EVERY: Final = 1.0
"""Seconds between two looks into one series' folder."""

AT_A_TURN: Final = 250
"""Instances of one series before another one has its turn."""

FIRST_PAUSE: Final = 1.0
LAST_PAUSE: Final = 30.0
"""Seconds for which CUBE is left alone after it failed."""

logger = logging.getLogger("oxidicom.cube")


class _Waiting(NamedTuple):
    series: SeriesInfo
    association_id: str


class EagerRegistrar:
    """`expected` says how many instances the PACS has of an open series, as far as is known.

    Used on one loop; `clock` and `sleep` are in seconds.
    """

    def __init__(
        self,
        pushes: InstanceRegistrar,
        expected: Callable[[SeriesKey], int | None],
        *,
        at_once: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._pushes = pushes
        self._expected = expected
        self._at_once = at_once
        self._clock = clock
        self._sleep = sleep
        self._waiting: dict[SeriesKey, _Waiting] = {}
        """Series with instances that CUBE may not have, the next one first."""
        self._wanted = asyncio.Event()
        self._pause = 0.0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._push_waiting(), name="early pusher")

    async def stop(self) -> None:
        """What is under way is broken off, and left to the publication."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def stored(self, series: SeriesInfo, association_id: str) -> None:
        """An instance stands in the series' folder; `association_id` is the first that carried the
        series. Takes a microsecond."""
        key = series.key
        if key not in self._waiting and len(self._waiting) < MOST_WAITING:
            self._waiting[key] = _Waiting(series, association_id)
            self._wanted.set()

    def leave(self, key: SeriesKey) -> None:
        """What has come of the series so far is being published."""
        self._waiting.pop(key, None)

    async def _push_waiting(self) -> None:
        while True:
            self._wanted.clear()
            due = self._next()
            if due is None:
                await self._wanted.wait()
            elif isinstance(due, float):
                await self._wait(due)
            else:
                await self._take_turn(due)
                if self._pause:
                    await self._sleep(self._pause)

    def _next(self) -> _Waiting | float | None:
        """A series whose time has come, or the seconds until there may be one."""
        now = self._clock()
        shortest: float | None = None
        for key, waiting in self._waiting.items():
            known = self._pushes.pushed.peek(key)
            wait = 0.0
            if known is not None and known.publishing:
                wait = LIST_EVERY
            elif known is not None and known.listed_at is not None:
                wait = known.listed_at + LIST_EVERY - now
            if wait <= 0:
                del self._waiting[key]
                return waiting
            shortest = wait if shortest is None else min(shortest, wait)
        return shortest

    async def _wait(self, seconds: float) -> None:
        """Until another series waits, but no longer than `seconds`."""
        sleep = asyncio.ensure_future(self._sleep(seconds))
        wanted = asyncio.ensure_future(self._wanted.wait())
        try:
            await asyncio.wait((sleep, wanted), return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleep.cancel()
            wanted.cancel()

    async def _take_turn(self, waiting: _Waiting) -> None:
        series, association_id = waiting
        known = self._pushes.pushed.of(series.key)
        registration = Registration(series, 0, association_id=association_id)
        try:
            async with known.turn:
                await self._push_new(registration, known)
        except CubeAway:
            self._pause = min(self._pause * 2 or FIRST_PAUSE, LAST_PAUSE)
        except Exception as error:
            event(
                logger,
                logging.ERROR,
                "eager registration failed",
                exc_info=error,
                SeriesInstanceUID=series.series_instance_uid,
            )

    async def _push_new(self, registration: Registration, known: SeriesRegistrations) -> None:
        known.listed_at = self._clock()
        names = await self._pushes.instances(registration.series)
        new = [name for name in names if name not in known.done and name not in known.failed]
        if len(new) > AT_A_TURN and registration.association_id is not None:
            self.stored(registration.series, registration.association_id)

        async def push(name: str) -> None:
            if known.publishing:
                return  # whose turn it is next
            try:
                await self._pushes.instance(registration, name, attempts=1)
            except RegistrationRefused:
                return
            self._pause = 0.0
            await self._tell_expected(registration, known)

        await side_by_side(new[:AT_A_TURN], push, self._at_once)

    async def _tell_expected(self, registration: Registration, known: SeriesRegistrations) -> None:
        """As soon as CUBE has one instance and the PACS has said how many there are."""
        expected = self._expected(registration.series.key)
        if known.expected_told or expected is None:
            return
        try:
            association = uuid_of(registration.association_id or "")
        except ValueError:
            return
        known.expected_told = True  # before anybody else does it as well
        try:
            await self._pushes.metadata(registration, association, EXPECTED, str(expected), 1)
        except BaseException as error:
            known.expected_told = False
            if not isinstance(error, RegistrationRefused):
                raise
