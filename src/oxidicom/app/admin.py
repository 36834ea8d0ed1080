"""The admin endpoint, put together; imported only where `OXIDICOM_ADMIN_PORT` is set."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final, Protocol

from oxidicom import __version__
from oxidicom.admin.health import Health, StorageAnswer, StorageProbe, Watched
from oxidicom.admin.liveness import DEAD, Liveness
from oxidicom.admin.server import AdminServer
from oxidicom.admin.status_board import StatusBoard
from oxidicom.errors import OperatorError
from oxidicom.logevents import describe, event, reason_of
from oxidicom.net.shared_port import listening_sockets
from oxidicom.notify.lonk_publisher import LonkPublisher
from oxidicom.notify.outbox_relay import OutboxRelay
from oxidicom.notify.outbox_store import Outbox
from oxidicom.series.tracker import SeriesTracker
from oxidicom.settings import Settings

logger = logging.getLogger("oxidicom.admin")

BACKLOG: Final = 128

LAST_ANSWERS: Final = 0.4
"""Seconds for streams to end."""


class Broker(Protocol):
    async def answers(self) -> None:
        """Raises what keeps it from that."""


class Admin:
    """Binds its port, or raises OperatorError. Then, on the control plane's loop, `make`
    before others are made that tell the board, `watch` when they are, `start` and `stop`."""

    def __init__(self, settings: Settings) -> None:
        host, port = settings.admin_host, settings.admin_port
        assert port is not None
        self._settings = settings
        try:
            self._sockets = listening_sockets(host, port, BACKLOG)
        except OSError as error:
            raise OperatorError(
                f"cannot listen on {host} port {port}: {error.strerror or error}; set "
                "OXIDICOM_ADMIN_PORT to a free port and OXIDICOM_ADMIN_HOST to an address of this "
                "machine"
            ) from error
        self.port: int = self._sockets[0].getsockname()[1]
        self.liveness = Liveness(time.monotonic)
        self.draining = False
        """Set on any thread: from then on we are not ready."""
        self._tasks: list[asyncio.Task[None]] = []

    def make(self, tracker: SeriesTracker, outbox: Outbox, broker: Broker | None) -> StatusBoard:
        settings = self._settings
        self._probe = StorageProbe(
            {
                "the files root": settings.files_root / ".oxidicom" / "tmp",
                "the state folder": settings.state_dir / "journal",
            },
            settings.files_root,
            outbox.standing,
        )
        self._storage = Watched(self._probe.ask, _storage_fault, time.monotonic)
        self._broker = None
        if broker is not None:
            self._broker = Watched[str | None](broker.answers, _broker_fault, time.monotonic)
        health = Health(
            storage=self._storage,
            min_free_space=settings.min_free_space,
            registers=bool(settings.broker or settings.cube_url),
            broker=self._broker,
            courier=lambda: self._courier,
            nats=lambda: None if self._lonk is None else self._lonk.connected,
            draining=lambda: self.draining,
            liveness=self.liveness,
            workers=settings.workers,
        )
        self.board = StatusBoard(
            version=__version__,
            aet=settings.scp_aet,
            workers=settings.workers,
            series=tracker,
            health=health,
            clock=time.monotonic,
            wall=time.time,
        )
        return self.board

    def watch(self, courier: OutboxRelay, lonk: LonkPublisher | None) -> None:
        self._courier = courier
        self._lonk = lonk

    def start(self) -> None:
        """Begin to answer."""
        self._server = AdminServer(self.board, self.death)
        self._serving = asyncio.create_task(self._server.run(self._sockets), name="admin")
        self._serving.add_done_callback(_complain)
        self._tasks = [asyncio.create_task(self._storage.run(), name="storage watch")]
        if self._broker is not None:
            self._tasks.append(asyncio.create_task(self._broker.run(), name="broker watch"))

    def death(self) -> str | None:
        """Why we should be started again, if we should."""
        silence = self.liveness.silence()
        if silence < DEAD or self.draining:
            return None
        return f"no receiving process has answered for {silence:.0f} s"

    def look_no_more(self) -> None:
        """Whoever asks a broker that hangs would keep us from closing the connection."""
        for task in self._tasks:
            task.cancel()
        self._probe.close()

    def close(self) -> None:
        """Of one that was never started."""
        for each in self._sockets:
            each.close()

    async def stop(self) -> None:
        self._server.stop()
        await asyncio.wait([self._serving], timeout=LAST_ANSWERS)
        self._serving.cancel()


def _complain(serving: asyncio.Task[None]) -> None:
    if not serving.cancelled() and (error := serving.exception()) is not None:
        event(logger, logging.ERROR, "admin endpoint failed", exc_info=error)


def _broker_fault(error: Exception) -> str:
    return "no answer" if isinstance(error, TimeoutError) else reason_of(error)


def _storage_fault(error: Exception) -> StorageAnswer:
    return StorageAnswer(f"it cannot be asked: {describe(error)}", None, None)
