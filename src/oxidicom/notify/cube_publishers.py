"""Publishers over HTTP: one request for each series, or one for each instance (decision 40)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from oxidicom.logevents import describe
from oxidicom.notify.cube_bodies import (
    ATTEMPTED_KEY,
    EXPECTED_KEY,
    SERIES_RESOURCE,
    UNKNOWN_COUNT,
    series_body,
)
from oxidicom.notify.cube_http import CubeClient
from oxidicom.notify.cube_instances import InstanceRegistrar, run_concurrently
from oxidicom.notify.cube_registered_files import SeriesRegistrations
from oxidicom.notify.publisher import RegistrationRefusedError
from oxidicom.observers import (
    HttpSeriesRegistration,
)
from oxidicom.ports import Registration, SeriesKey
from oxidicom.ulid import uuid_of

_FOLDER_IS_EMPTY: Final = "no instance is in the series' folder"


class SeriesPublisher:
    """Registers each series by one request to `pacs/series/`, which CUBE has had since 2024."""

    def __init__(self, client: CubeClient) -> None:
        self._client = client

    async def publish(self, registration: Registration, task_id: str) -> None:
        """Register the series; see Publisher.publish."""
        await self._client.register(
            SERIES_RESOURCE, series_body(registration), traceparent=registration.traceparent
        )

    async def close(self) -> None:
        """Close the connections to CUBE; see CubeClient.close."""
        await self._client.close()


class InstancePublisher:
    """Registers each instance of a series at `pacsfiles/`, as the first generation did.

    Instances that are registered already, by eager registration or an earlier attempt, are left
    out. At most `max_concurrent` requests are in progress at once. `on_begin` is called with the
    key of a series before its folder is listed.
    """

    def __init__(
        self,
        registrar: InstanceRegistrar,
        *,
        max_concurrent: int,
        on_begin: Callable[[SeriesKey], None],
    ) -> None:
        self._registrar = registrar
        self._max_concurrent = max_concurrent
        self._on_begin = on_begin

    async def publish(self, registration: Registration, task_id: str) -> None:
        """Register the instances that CUBE does not have; see Publisher.publish."""
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
            self._registrar.observer.http_series_registration_ended(ended)

    async def _publish(self, registration: Registration, association: str) -> None:
        key = registration.series.key
        known = self._registrar.registered.series(key)
        known.publishing += 1
        try:
            async with known.lock:
                self._on_begin(key)
                await _Publication(
                    self._registrar, registration, association, known, self._max_concurrent
                ).run()
        except RegistrationRefusedError:
            self._registrar.registered.forget(key)
            raise
        else:
            self._registrar.registered.forget(key)
        finally:
            known.publishing -= 1

    async def close(self) -> None:
        """Close the connections to CUBE; see CubeClient.close."""
        await self._registrar.close()


class _Publication:
    """One attempt to register the remaining instances and the custom metadata of a series."""

    def __init__(
        self,
        registrar: InstanceRegistrar,
        registration: Registration,
        association: str,
        known: SeriesRegistrations,
        max_concurrent: int,
    ) -> None:
        self._registrar = registrar
        self._registration = registration
        self._association = association
        self._known = known
        self._max_concurrent = max_concurrent
        self._refused: dict[str, RegistrationRefusedError] = {}
        """Refusals of instances, by file name."""
        self._metadata_refused: RegistrationRefusedError | None = None
        """The latest refusal of custom metadata."""

    async def run(self) -> None:
        """Register the instances that CUBE does not have, and the custom metadata.

        Raises RegistrationRefusedError if the folder is empty, or after the last request if CUBE
        refused any of them; CubeUnavailableError if CUBE or the storage fails.
        """
        names = await self._registrar.instance_names(self._registration.series)
        if not names:
            raise RegistrationRefusedError(_FOLDER_IS_EMPTY)
        known = self._known
        remaining = [name for name in names if name not in known.registered]
        # Instances that failed before come last: if CUBE fails at one again, the others are done.
        remaining.sort(key=known.failed.__contains__)
        if not known.expected_registered:
            # The expected number follows the first instance, as in eager registration.
            if remaining and len(remaining) == len(names):
                await self._register(remaining.pop(0))
            await self._register_expected()
        await run_concurrently(remaining, self._register, self._max_concurrent)
        attempted = str(self._registration.attempted or len(names))
        await self._register_metadata(ATTEMPTED_KEY, attempted)
        await self._raise_refusals(len(names))

    async def _register(self, name: str) -> None:
        try:
            await self._registrar.register_instance(self._registration, name)
        except RegistrationRefusedError as refusal:
            self._refused[name] = refusal

    async def _register_expected(self) -> None:
        expected = self._registration.expected
        value = UNKNOWN_COUNT if expected is None else str(expected)
        await self._register_metadata(EXPECTED_KEY, value)
        self._known.expected_registered = True

    async def _register_metadata(self, key: str, value: str) -> None:
        try:
            await self._registrar.register_metadata(
                self._registration, self._association, key, value
            )
        except RegistrationRefusedError as refusal:
            self._metadata_refused = refusal

    async def _raise_refusals(self, total: int) -> None:
        """Raise RegistrationRefusedError if CUBE refused metadata or an instance that still exists.

        `total` is the number of instances in the series folder.
        """
        if self._refused:
            existing = set(await self._registrar.instance_names(self._registration.series))
            refused = [refusal for name, refusal in self._refused.items() if name in existing]
            if refused:
                raise RegistrationRefusedError(f"{len(refused)} of {total} instances: {refused[0]}")
        if self._metadata_refused is not None:
            raise RegistrationRefusedError(f"custom metadata: {self._metadata_refused}")


def association_uuid(registration: Registration, default: str) -> str:
    """Return the ULID of the first association as a UUID; `default` if there is no valid ULID."""
    try:
        return uuid_of(registration.association_id or "")
    except ValueError:
        return default
