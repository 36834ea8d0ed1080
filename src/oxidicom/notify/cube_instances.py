"""Registers single files over HTTP: instances, and the empty files of custom metadata."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, ParamSpec, TypeVar

from oxidicom.disk_executor import DiskExecutor
from oxidicom.logevents import describe, event
from oxidicom.notify.cube_bodies import (
    FILES_RESOURCE,
    MAX_PATH_CHARACTERS,
    instance_body,
    metadata_body,
    metadata_folder,
)
from oxidicom.notify.cube_fields import Fields
from oxidicom.notify.cube_http import CubeClient, CubeUnavailableError, Retry
from oxidicom.notify.cube_registered_files import RegisteredFiles
from oxidicom.observers import (
    HttpRegistration,
    Observer,
    TraceContext,
)
from oxidicom.ports import Registration, SeriesFiles, SeriesInfo

INSTANCE_SUFFIX: Final = ".dcm"
"""File name suffix of instances; other files in a series folder are not registered."""

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

logger = logging.getLogger("oxidicom.cube")


class InstanceRegistrar:
    """Registers single files, and records in `registered` which of them CUBE has.

    Observers receive the path of each file only if `show_files` is True, because it contains
    patient data. The methods that register raise RegistrationRefusedError if CUBE will never accept
    the file, and CubeUnavailableError if CUBE or the storage fails.
    """

    def __init__(
        self,
        client: CubeClient,
        files: SeriesFiles,
        registered: RegisteredFiles,
        observer: Observer,
        trace: TraceContext,
        *,
        show_files: bool = False,
    ) -> None:
        self.client = client
        self.registered = registered
        self.observer = observer
        self._trace = trace
        self._files = files
        self._show_files = show_files
        self._disk = DiskExecutor("ox-cube-files")

    async def instance_names(self, series: SeriesInfo) -> list[str]:
        """Return the sorted file names of the instances in the series folder.

        The list is empty if there is no folder. Raises CubeUnavailableError if the storage fails.
        """
        names = await self._on_disk(self._files.names, series.path)
        return [name for name in names if name.endswith(INSTANCE_SUFFIX)]

    async def register_instance(
        self, registration: Registration, name: str, attempts: int | None = None
    ) -> None:
        """Register the file `name` of the series folder; see the class for what it raises.

        `attempts` None means as many as the client makes by default.
        """
        key = registration.series.key
        try:
            await self._register(registration, instance_body(registration, name), attempts)
        except Exception:
            self.registered.add(key, name, registered=False)
            raise
        self.registered.add(key, name, registered=True)

    async def register_metadata(
        self,
        registration: Registration,
        association: str,
        key: str,
        value: str,
        attempts: int | None = None,
    ) -> None:
        """Create and register an empty file named `key`=`value` for the series.

        `association` is the UUID that the folder of the file is named after. If that folder has a
        file for `key` already, its value is registered instead. `attempts` None means as many as
        the client makes by default. If the path is too long for CUBE, only a warning is logged.
        """
        folder = metadata_folder(registration.series, association)
        for name in await self._on_disk(self._files.names, folder):
            if name.startswith(f"{key}="):
                value = name.partition("=")[2]
                break
        name = f"{key}={value}"
        path = f"{folder}/{name}"
        if len(path) > MAX_PATH_CHARACTERS:
            event(
                logger,
                logging.WARNING,
                "custom metadata omitted; its path exceeds CUBE's limit",
                SeriesInstanceUID=registration.series.series_instance_uid,
                key=key,
            )
            return
        await self._on_disk(self._files.put_empty, folder, name)
        body = metadata_body(registration, path, key, value)
        await self._register(registration, body, attempts, (key, value))

    async def _register(
        self,
        registration: Registration,
        body: Fields,
        attempts: int | None,
        metadata: tuple[str, str] | None = None,
    ) -> None:
        retries: list[Retry] = []
        error = None
        began_ns = time.time_ns()
        traceparent = self._trace.begin_http_registration(registration.association_id, began_ns)
        try:
            await self.client.register(
                FILES_RESOURCE, body, attempts=attempts, retries=retries, traceparent=traceparent
            )
        except BaseException as why:
            error = describe(why)
            raise
        finally:
            push = HttpRegistration(
                registration.series,
                registration.association_id,
                self.client.url + FILES_RESOURCE,
                str(body["path"]) if self._show_files else None,
                began_ns,
                time.time_ns(),
                tuple(retries),
                error,
                metadata,
                traceparent,
            )
            self.observer.http_registration_ended(push)

    async def _on_disk(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await self._disk.run(call, *args, **kwargs)
        except OSError as error:
            # The error's own text contains a path, and so perhaps a patient's name.
            raise CubeUnavailableError(f"the storage fails: {describe(error)}") from None

    async def close(self) -> None:
        """Stop storage calls and close the connections to CUBE; see CubeClient.close."""
        self._disk.close()
        await self.client.close()


async def run_concurrently(
    items: Iterable[T], work: Callable[[T], Awaitable[None]], max_concurrent: int
) -> None:
    """Call `work` with each item, with at most `max_concurrent` calls in progress at once.

    After an error no further call is made; when the calls in progress have ended, the first error
    is raised.
    """
    remaining = iter(items)
    errors: list[Exception] = []

    async def work_on_items() -> None:
        for item in remaining:
            try:
                await work(item)
            except Exception as error:
                errors.append(error)
            if errors:
                return

    await asyncio.gather(*(work_on_items() for _ in range(max_concurrent)))
    if errors:
        raise errors[0]
