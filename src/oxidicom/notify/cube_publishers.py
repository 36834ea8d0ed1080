"""Complete series to CUBE over HTTP: as one registration, or one of each instance (decision 40)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from oxidicom.logevents import describe
from oxidicom.notify.cube_bodies import ATTEMPTED, EXPECTED, SERIES, UNKNOWN, series_body
from oxidicom.notify.cube_http import CubeClient
from oxidicom.notify.cube_instances import InstanceRegistrar, side_by_side
from oxidicom.notify.cube_registered_files import SeriesRegistrations
from oxidicom.notify.outbox_relay import RegistrationRefused
from oxidicom.ports import HttpSeriesRegistration, Registration, SeriesKey
from oxidicom.ulid import uuid_of

_FOLDER_IS_EMPTY: Final = "no instance is in the series' folder any more"


class SeriesPublisher:
    """At `pacs/series/`, which CUBE has since 2024."""

    def __init__(self, client: CubeClient) -> None:
        self._client = client

    async def publish(self, registration: Registration, task_id: str) -> None:
        await self._client.register(
            SERIES, series_body(registration), traceparent=registration.traceparent
        )

    async def close(self) -> None:
        await self._client.close()


class InstancePublisher:
    """At `pacsfiles/`, as the first generation. What was pushed early is not pushed again; what
    CUBE did not take then is pushed now, so that nothing is lost in between.

    `begins` is called when a series' folder is about to be looked through.
    """

    def __init__(
        self, pushes: InstanceRegistrar, *, at_once: int, begins: Callable[[SeriesKey], None]
    ) -> None:
        self._pushes = pushes
        self._at_once = at_once
        self._begins = begins

    async def publish(self, registration: Registration, task_id: str) -> None:
        association = association_uuid(registration, task_id)
        began_ns = time.time_ns()
        error = None
        try:
            await self._publish(registration, association)
        except BaseException as why:
            error = describe(why)
            raise
        finally:
            ended = HttpSeriesRegistration(
                registration.association_id, association, began_ns, time.time_ns(), error
            )
            self._pushes.observer.http_series_registration_ended(ended)

    async def _publish(self, registration: Registration, association: str) -> None:
        key = registration.series.key
        known = self._pushes.pushed.of(key)
        known.publishing += 1
        try:
            async with known.turn:
                self._begins(key)
                await _Publication(
                    self._pushes, registration, association, known, self._at_once
                ).run()
        except RegistrationRefused:
            self._pushes.pushed.forget(key)
            raise
        else:
            self._pushes.pushed.forget(key)
        finally:
            known.publishing -= 1

    async def close(self) -> None:
        await self._pushes.close()


class _Publication:
    """One series, all of it that CUBE does not have."""

    def __init__(
        self,
        pushes: InstanceRegistrar,
        registration: Registration,
        association: str,
        known: SeriesRegistrations,
        at_once: int,
    ) -> None:
        self._pushes = pushes
        self._registration = registration
        self._association = association
        self._known = known
        self._at_once = at_once
        self._refused: dict[str, RegistrationRefused] = {}
        """By name of file."""
        self._metadata_refused: RegistrationRefused | None = None

    async def run(self) -> None:
        names = await self._pushes.instances(self._registration.series)
        if not names:
            raise RegistrationRefused(_FOLDER_IS_EMPTY)
        known = self._known
        left = [name for name in names if name not in known.done]
        # One that CUBE chokes on must not keep the others from it.
        left.sort(key=known.failed.__contains__)
        if not known.expected_told:
            if left and len(left) == len(names):
                await self._push(left.pop(0))
            await self._tell_expected()
        await side_by_side(left, self._push, self._at_once)
        attempted = str(self._registration.attempted or len(names))
        await self._tell(ATTEMPTED, attempted)
        await self._complain(len(names))

    async def _push(self, name: str) -> None:
        try:
            await self._pushes.instance(self._registration, name)
        except RegistrationRefused as refusal:
            self._refused[name] = refusal

    async def _tell_expected(self) -> None:
        expected = self._registration.expected
        await self._tell(EXPECTED, UNKNOWN if expected is None else str(expected))
        self._known.expected_told = True

    async def _tell(self, key: str, value: str) -> None:
        try:
            await self._pushes.metadata(self._registration, self._association, key, value)
        except RegistrationRefused as refusal:
            self._metadata_refused = refusal

    async def _complain(self, total: int) -> None:
        """Of what was refused, but for instances that vanished meanwhile."""
        if self._refused:
            there = set(await self._pushes.instances(self._registration.series))
            refused = [refusal for name, refusal in self._refused.items() if name in there]
            if refused:
                raise RegistrationRefused(f"{len(refused)} of {total} instances: {refused[0]}")
        if self._metadata_refused is not None:
            raise RegistrationRefused(f"custom metadata: {self._metadata_refused}")


def association_uuid(registration: Registration, otherwise: str) -> str:
    """The ULID of its first association as a UUID; `otherwise` for one of unknown origin."""
    try:
        return uuid_of(registration.association_id or "")
    except ValueError:
        return otherwise
