"""A receiver in one process: the data plane on the caller's loop, the control plane on its own."""

from __future__ import annotations

import time

from oxidicom.app.control_host import ControlHost, LoopFactory, unusable_storage
from oxidicom.app.data_plane import DataPlane, Ports
from oxidicom.app.takeover import Recovered
from oxidicom.errors import OperatorError
from oxidicom.ports import SeriesCompleted
from oxidicom.settings import Settings


class Receiver:
    """One receiver that is one process. Call `start`, then `drain`, once each, on one loop."""

    def __init__(self, settings: Settings, loop_factory: LoopFactory | None = None) -> None:
        self._settings = settings
        self._control = ControlHost(
            settings, loop_factory, self._series_completed, adopted=self._series_adopted
        )

    async def start(self) -> Ports:
        """Recover what an earlier process left, then listen. Raises OperatorError."""
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
        """Read the certificate again."""
        self._data_plane.reload()

    def _series_adopted(self, found: Recovered) -> None:
        self._data_plane.storage.folders.restore(found.series, found.associations)

    def _series_completed(self, completed: SeriesCompleted) -> None:
        self._data_plane.storage.folders.completed(completed.series.key, completed.associations)

    async def drain(self) -> None:
        """Let associations end, then register and flush what there is (decision 38)."""
        began = time.monotonic()
        self._control.drain()
        await self._data_plane.drain()
        await self._control.finish(time.monotonic() - began)
        self._data_plane.close()
