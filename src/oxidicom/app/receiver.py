"""A whole receiver in one process: reception on the caller's loop, the control plane beside it."""

from __future__ import annotations

import time

from oxidicom.app.control_host import ControlHost, LoopFactory, unusable_storage
from oxidicom.app.control_plane import FLUSH
from oxidicom.app.data_plane import DataPlane, Ports
from oxidicom.app.takeover import Recovered
from oxidicom.errors import OperatorError
from oxidicom.ports import SeriesCompleted
from oxidicom.settings import Settings


class Receiver:
    """`start`, then `drain`, once each, on one running loop."""

    def __init__(self, settings: Settings, loop_factory: LoopFactory | None = None) -> None:
        self._settings = settings
        self._notifier = ControlHost(
            settings, loop_factory, self._series_completed, adopted=self._series_adopted
        )

    async def start(self) -> Ports:
        """Recover, then listen. Raises OperatorError."""
        try:
            self._notifier.open()
        except OSError as error:
            raise unusable_storage(error) from error
        await self._notifier.make()
        try:
            ports = await self._listen()
        except OperatorError:
            self._notifier.abandon()
            raise
        await self._notifier.start()
        if self._notifier.admin is not None:
            from oxidicom.admin.liveness import Heartbeat

            Heartbeat(lambda: self._notifier.alive(1))
        return ports._replace(admin=self._notifier.admin_port)

    async def _listen(self) -> Ports:
        settings = self._settings
        try:
            self._reception = reception = DataPlane(
                settings, journal=self._notifier.journal, reports=self._notifier.report
            )
        except OSError as error:
            raise unusable_storage(error) from error
        for each in self._notifier.recovered:
            self._series_adopted(each)
        try:
            return await reception.listen()
        except OperatorError:
            await reception.listener.close()
            reception.close()
            raise

    def reload(self) -> None:
        """Read the certificate again."""
        self._reception.reload()

    def _series_adopted(self, found: Recovered) -> None:
        self._reception.storage.folders.restore(found.series, found.associations)

    def _series_completed(self, completed: SeriesCompleted) -> None:
        self._reception.storage.folders.completed(completed.series.key, completed.associations)

    async def drain(self) -> None:
        """Let associations end, then register and flush what there is (decision 38)."""
        deadline = time.monotonic() + self._settings.drain_timeout + FLUSH
        self._notifier.drain()
        await self._reception.drain()
        await self._notifier.finish(min(FLUSH, deadline - time.monotonic()))
        self._reception.close()
