"""A receiver of one process: data plane on the main loop, control plane on a thread of its own."""

from __future__ import annotations

import time

from oxidicom.app.control_host import ControlHost, LoopFactory, unusable_storage
from oxidicom.app.data_plane import DataPlane, Ports
from oxidicom.app.takeover import Recovered
from oxidicom.errors import OperatorError
from oxidicom.ports import SeriesCompleted
from oxidicom.settings import Settings


class Receiver:
    """A receiver of one process. Call `start` and then `drain`, once each, on the main loop."""

    def __init__(self, settings: Settings, loop_factory: LoopFactory | None = None) -> None:
        self._settings = settings
        self._control = ControlHost(
            settings, loop_factory, self._series_completed, adopted=self._series_adopted
        )

    async def start(self) -> Ports:
        """Recover the series that earlier processes left open, and begin to accept connections.

        Return the bound ports. Raises OperatorError if the storage, the certificate or a port
        cannot be used.
        """
        try:
            self._control.open()
        except OSError as error:
            raise unusable_storage(error) from error
        await self._control.make()
        try:
            ports = await self._listen()
        except OperatorError:
            self._control.abandon()
            raise
        await self._control.start()
        if self._control.admin is not None:
            from oxidicom.admin.liveness import Heartbeat

            Heartbeat(lambda: self._control.alive(1))
        return ports._replace(admin=self._control.admin_port)

    async def _listen(self) -> Ports:
        try:
            self._data_plane = data_plane = DataPlane(
                self._settings, journal=self._control.journal, reports=self._control.report
            )
        except OSError as error:
            raise unusable_storage(error) from error
        for each in self._control.recovered:
            self._series_adopted(each)
        try:
            return await data_plane.listen()
        except OperatorError:
            await data_plane.listener.close()
            data_plane.close()
            raise

    def reload(self) -> None:
        """Have the certificate read again. Only valid after `start`."""
        self._data_plane.reload()

    def _series_adopted(self, found: Recovered) -> None:
        self._data_plane.storage.folders.restore(found.series, found.associations)

    def _series_completed(self, completed: SeriesCompleted) -> None:
        self._data_plane.storage.folders.completed(completed.series.key, completed.associations)

    async def drain(self) -> None:
        """Let associations end, then complete, register and deliver all series (decision 38).

        Registrations that cannot be delivered in time stay in the outbox.
        """
        began = time.monotonic()
        self._control.drain()
        await self._data_plane.drain()
        await self._control.finish(time.monotonic() - began)
        self._data_plane.close()
