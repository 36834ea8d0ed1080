"""Eager registration: instances are registered before their series is complete.

The first generation did the same. An instance that cannot be registered here is registered when the
complete series is published. Series are queued, not instances, so memory does not grow while CUBE
is unavailable.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from oxidicom.backoff import Backoff
from oxidicom.cancellation import end_tasks
from oxidicom.logevents import event
from oxidicom.notify.cube_bodies import EXPECTED_KEY
from oxidicom.notify.cube_http import CubeUnavailableError
from oxidicom.notify.cube_instances import InstanceRegistrar, run_concurrently
from oxidicom.notify.cube_registered_files import SeriesRegistrations
from oxidicom.notify.publisher import RegistrationRefusedError
from oxidicom.ports import Registration, SeriesInfo, SeriesKey
from oxidicom.ulid import uuid_of

MAX_QUEUED_SERIES: Final = 1000
"""Greatest number of queued series; further ones are not registered eagerly."""

LIST_INTERVAL_S: Final = 1.0
"""Least number of seconds from one listing of a series folder to the next."""

MAX_INSTANCES_A_TURN: Final = 250
"""Greatest number of instances of one series that are registered before the next series."""

EAGER_FIRST_PAUSE_S: Final = 1.0
EAGER_GREATEST_PAUSE_S: Final = 30.0
"""Seconds of the pause after CUBE failed; doubled from the first to the greatest."""

EAGER_STOP_TIMEOUT_S: Final = 2.0
"""Seconds for the registrar's task to end after it is cancelled."""

logger = logging.getLogger("oxidicom.cube")


class _QueuedSeries(NamedTuple):
    series: SeriesInfo
    association_id: str
    """ULID of the first association that carried the series."""


class EagerRegistrar:
    """Registers instances of open series, one series after the other.

    `expected` returns how many instances of an open series the PACS holds, or None if that is
    unknown. At most `max_concurrent` requests are in progress at once. `clock` and `sleep` are in
    seconds.
    """

    def __init__(
        self,
        registrar: InstanceRegistrar,
        expected: Callable[[SeriesKey], int | None],
        *,
        max_concurrent: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._registrar = registrar
        self._expected = expected
        self._max_concurrent = max_concurrent
        self._clock = clock
        self._sleep = sleep
        self._queued: dict[SeriesKey, _QueuedSeries] = {}
        """Series with instances that CUBE may not have, the next one first."""
        self._wanted = asyncio.Event()
        self._backoff = Backoff(EAGER_FIRST_PAUSE_S, EAGER_GREATEST_PAUSE_S)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to register the instances of the series that are queued by `stored`."""
        self._task = asyncio.create_task(self._register_queued(), name="eager registrar")

    async def stop(self) -> None:
        """Cancel registrations in progress; return after EAGER_STOP_TIMEOUT_S at the latest.

        The publication of the series repeats them.
        """
        if self._task is not None:
            await end_tasks([self._task], EAGER_STOP_TIMEOUT_S)

    def stored(self, series: SeriesInfo, association_id: str) -> None:
        """Queue the series of an instance that has been stored. Takes about a microsecond.

        `association_id` is the ULID of the first association that carried the series.
        """
        key = series.key
        if key not in self._queued and len(self._queued) < MAX_QUEUED_SERIES:
            self._queued[key] = _QueuedSeries(series, association_id)
            self._wanted.set()

    def drop(self, key: SeriesKey) -> None:
        """Remove the series from the queue, because its publication begins."""
        self._queued.pop(key, None)

    async def _register_queued(self) -> None:
        while True:
            self._wanted.clear()
            due = self._next()
            if due is None:
                await self._wanted.wait()
            elif isinstance(due, float):
                await self._wait(due)
            else:
                await self._take_turn(due)
                if self._backoff:
                    await self._sleep(self._backoff.delay)

    def _next(self) -> _QueuedSeries | float | None:
        """Return the next series to register, and remove it from the queue.

        If none is due, return the seconds until the first one is; if none is queued, return None.
        """
        now = self._clock()
        shortest: float | None = None
        for key, queued in self._queued.items():
            known = self._registrar.registered.get(key)
            wait = 0.0
            if known is not None and known.publishing:
                wait = LIST_INTERVAL_S
            elif known is not None and known.listed_at is not None:
                wait = known.listed_at + LIST_INTERVAL_S - now
            if wait <= 0:
                del self._queued[key]
                return queued
            shortest = wait if shortest is None else min(shortest, wait)
        return shortest

    async def _wait(self, seconds: float) -> None:
        """Wait until another series is queued, for at most `seconds`."""
        sleep = asyncio.ensure_future(self._sleep(seconds))
        wanted = asyncio.ensure_future(self._wanted.wait())
        try:
            await asyncio.wait((sleep, wanted), return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleep.cancel()
            wanted.cancel()

    async def _take_turn(self, queued: _QueuedSeries) -> None:
        series, association_id = queued
        known = self._registrar.registered.series(series.key)
        registration = Registration(series, 0, association_id=association_id)
        try:
            async with known.lock:
                await self._register_new(registration, known)
        except CubeUnavailableError:
            self._backoff.failed()
        except Exception as error:
            event(
                logger,
                logging.ERROR,
                "eager registration failed",
                exc_info=error,
                SeriesInstanceUID=series.series_instance_uid,
            )

    async def _register_new(self, registration: Registration, known: SeriesRegistrations) -> None:
        known.listed_at = self._clock()
        names = await self._registrar.instance_names(registration.series)
        new = [name for name in names if name not in known.registered and name not in known.failed]
        if len(new) > MAX_INSTANCES_A_TURN and registration.association_id is not None:
            self.stored(registration.series, registration.association_id)

        async def register(name: str) -> None:
            if known.publishing:
                return  # the publication registers the remaining instances
            try:
                await self._registrar.register_instance(registration, name, attempts=1)
            except RegistrationRefusedError:
                return
            self._backoff.reset()
            await self._register_expected(registration, known)

        await run_concurrently(new[:MAX_INSTANCES_A_TURN], register, self._max_concurrent)

    async def _register_expected(
        self, registration: Registration, known: SeriesRegistrations
    ) -> None:
        """Register the expected count of a series as metadata, once, if the PACS has answered.

        Call it after an instance was registered. Raises CubeUnavailableError.
        """
        expected = self._expected(registration.series.key)
        if known.expected_registered or expected is None:
            return
        try:
            association = uuid_of(registration.association_id or "")
        except ValueError:
            return
        known.expected_registered = True  # set first: another task may come here during the request
        try:
            await self._registrar.register_metadata(
                registration, association, EXPECTED_KEY, str(expected), attempts=1
            )
        except BaseException as error:
            known.expected_registered = False
            if not isinstance(error, RegistrationRefusedError):
                raise
