"""The single pushes of which the registration of a series over HTTP consists: its instances, and
what is said of it besides (custom metadata)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

from oxidicom.logevents import describe, event
from oxidicom.notify.cube_bodies import (
    FILES,
    PATH_LIMIT,
    instance_body,
    metadata_body,
    metadata_folder,
)
from oxidicom.notify.cube_fields import Fields
from oxidicom.notify.cube_http import CubeAway, CubeClient, Retry
from oxidicom.notify.cube_registered_files import RegisteredFiles
from oxidicom.observers import Observer, TraceContext
from oxidicom.ports import HttpRegistration, Registration, SeriesFiles, SeriesInfo
from oxidicom.thread_names import pool_thread_namer

INSTANCE: Final = ".dcm"

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

logger = logging.getLogger("oxidicom.cube")


class InstanceRegistrar:
    """What CUBE has is noted in `pushed`. `show_files`: observers may know the files' paths.

    Every push raises RegistrationRefused, or CubeAway, also where it is the storage that fails.
    """

    def __init__(
        self,
        client: CubeClient,
        files: SeriesFiles,
        pushed: RegisteredFiles,
        observer: Observer,
        trace: TraceContext,
        *,
        show_files: bool = False,
    ) -> None:
        self.client = client
        self.pushed = pushed
        self.observer = observer
        self._trace = trace
        self._files = files
        self._show_files = show_files
        # Of our own: storage that hangs takes this thread, not the loop's.
        self._disk = ThreadPoolExecutor(1, initializer=pool_thread_namer("ox-cube-files"))

    async def instances(self, series: SeriesInfo) -> list[str]:
        """Names of the files in the series' folder."""
        names = await self._on_disk(self._files.names, series.path)
        return [name for name in names if name.endswith(INSTANCE)]

    async def instance(
        self, registration: Registration, name: str, attempts: int | None = None
    ) -> None:
        key = registration.series.key
        try:
            await self._push(registration, instance_body(registration, name), attempts)
        except Exception:
            self.pushed.add(key, name, done=False)
            raise
        self.pushed.add(key, name, done=True)

    async def metadata(
        self,
        registration: Registration,
        association: str,
        key: str,
        value: str,
        attempts: int | None = None,
    ) -> None:
        """`association`: a UUID. What an earlier attempt wrote of `key` stands."""
        folder = metadata_folder(registration.series, association)
        for name in await self._on_disk(self._files.names, folder):
            if name.startswith(f"{key}="):
                value = name.partition("=")[2]
                break
        name = f"{key}={value}"
        path = f"{folder}/{name}"
        if len(path) > PATH_LIMIT:
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
        await self._push(registration, body, attempts, (key, value))

    async def _push(
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
                FILES, body, attempts=attempts, retries=retries, traceparent=traceparent
            )
        except BaseException as why:
            error = describe(why)
            raise
        finally:
            push = HttpRegistration(
                registration.series,
                registration.association_id,
                self.client.url + FILES,
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
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._disk, lambda: call(*args, **kwargs))
        except OSError as error:
            # What the system says of it may hold a patient's name.
            raise CubeAway(f"the storage fails: {describe(error)}") from None

    async def close(self) -> None:
        self._disk.shutdown(wait=False, cancel_futures=True)
        await self.client.close()


async def side_by_side(
    items: Iterable[T], work: Callable[[T], Awaitable[None]], at_once: int
) -> None:
    """Let `work` do each item, `at_once` of them at a time; after an error it begins no other one,
    and raises the first error when those under way are done."""
    rest = iter(items)
    errors: list[Exception] = []

    async def take() -> None:
        for item in rest:
            try:
                await work(item)
            except Exception as error:
                errors.append(error)
            if errors:
                return

    await asyncio.gather(*(take() for _ in range(at_once)))
    if errors:
        raise errors[0]
