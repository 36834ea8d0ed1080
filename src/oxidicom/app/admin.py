"""Wires the admin endpoint. Imported only if `OXIDICOM_ADMIN_PORT` is set: it uses 6 MB."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final, Protocol

from oxidicom import __version__
from oxidicom.admin.health import HealthChecks, PeriodicProbe, StorageProbe, StorageState
from oxidicom.admin.liveness import RECEIVER_DEAD_AFTER_S, Liveness
from oxidicom.admin.server import AdminServer
from oxidicom.admin.status_board import StatusBoard
from oxidicom.errors import OperatorError
from oxidicom.logevents import describe, describe_client_error, event
from oxidicom.net.shared_port import listening_sockets
from oxidicom.notify.lonk_publisher import LonkPublisher
from oxidicom.notify.outbox_relay import OutboxRelay
from oxidicom.notify.outbox_store import Outbox
from oxidicom.series.tracker import SeriesTracker
from oxidicom.settings import Settings

logger = logging.getLogger("oxidicom.admin")

ADMIN_LISTEN_BACKLOG: Final = 128
"""Greatest number of connections to the admin port that the kernel queues."""

STREAM_END_TIMEOUT_S: Final = 0.4
"""Seconds for the event streams of clients to end at shutdown."""


class Broker(Protocol):
    """A broker that can be probed."""

    async def answers(self) -> None:
        """Check that the broker answers; raise an error within a few seconds if it does not."""


class AdminEndpoint:
    """The admin endpoint of a receiver.

    The constructor binds the port, and raises OperatorError if that fails. Then call `make_board`,
    `attach`, `start`, `stop_probes` and `stop`, in this order, on the control plane's loop; or
    `close` if the endpoint is not started.
    """

    def __init__(self, settings: Settings) -> None:
        host, port = settings.admin_host, settings.admin_port
        assert port is not None
        self._settings = settings
        try:
            self._sockets = listening_sockets(host, port, ADMIN_LISTEN_BACKLOG)
        except OSError as error:
            raise OperatorError(
                f"cannot listen on {host} port {port}: {error.strerror or error}; set "
                "OXIDICOM_ADMIN_PORT to a free port and OXIDICOM_ADMIN_HOST to an address of this "
                "machine"
            ) from error
        self.port: int = self._sockets[0].getsockname()[1]
        """Number of the bound port."""
        self.liveness = Liveness(time.monotonic)
        self.draining = False
        """Whether the receiver is shutting down, and so is not ready. Any thread may set it."""
        self._tasks: list[asyncio.Task[None]] = []

    def make_board(
        self, tracker: SeriesTracker, outbox: Outbox, broker: Broker | None
    ) -> StatusBoard:
        """Return the status board, an observer of the control plane.

        `broker` is None if no broker is set; then none is probed.
        """
        settings = self._settings
        self._probe = StorageProbe(
            {
                "the files root": settings.files_root / ".oxidicom" / "tmp",
                "the state folder": settings.state_dir / "journal",
            },
            settings.files_root,
            outbox.counts,
        )
        self._storage = PeriodicProbe(self._probe.run, _storage_fault, time.monotonic)
        self._broker = None
        if broker is not None:
            self._broker = PeriodicProbe[str | None](broker.answers, _broker_fault, time.monotonic)
        health = HealthChecks(
            storage=self._storage,
            min_free_space=settings.min_free_space,
            registers=bool(settings.broker or settings.cube_url),
            broker=self._broker,
            relay=lambda: self._relay,
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

    def attach(self, relay: OutboxRelay, lonk: LonkPublisher | None) -> None:
        """Give the health checks the objects that are created after the status board.

        `lonk` is None if no NATS server is set.
        """
        self._relay = relay
        self._lonk = lonk

    def start(self) -> None:
        """Begin to serve requests and to run probes."""
        self._server = AdminServer(self.board, self.restart_reason)
        self._serving = asyncio.create_task(self._server.run(self._sockets), name="admin")
        self._serving.add_done_callback(_log_failure)
        self._tasks = [asyncio.create_task(self._storage.run(), name="storage probe")]
        if self._broker is not None:
            self._tasks.append(asyncio.create_task(self._broker.run(), name="broker probe"))

    def restart_reason(self) -> str | None:
        """Return why the receiver should be restarted, or None if it should not."""
        silence = self.liveness.silence()
        if silence < RECEIVER_DEAD_AFTER_S or self.draining:
            return None
        return f"no receiving process has responded for {silence:.0f} s"

    def stop_probes(self) -> None:
        """Cancel the probes: closing the broker connection would wait for a probe that hangs."""
        for task in self._tasks:
            task.cancel()
        self._probe.close()

    def close(self) -> None:
        """Close the sockets of an endpoint that was never started."""
        for each in self._sockets:
            each.close()

    async def stop(self) -> None:
        """Stop the server; return after STREAM_END_TIMEOUT_S seconds at the latest."""
        self._server.stop()
        await asyncio.wait([self._serving], timeout=STREAM_END_TIMEOUT_S)
        self._serving.cancel()


def _log_failure(serving: asyncio.Task[None]) -> None:
    if not serving.cancelled() and (error := serving.exception()) is not None:
        event(logger, logging.ERROR, "admin endpoint failed", exc_info=error)


def _broker_fault(error: Exception) -> str:
    return "not responding" if isinstance(error, TimeoutError) else describe_client_error(error)


def _storage_fault(error: Exception) -> StorageState:
    return StorageState(f"cannot be checked: {describe(error)}", None, None)
