"""A receiver of several processes: the control process, which runs this module, and its workers.

The control process binds the ports, starts `OXIDICOM_WORKERS` workers, replaces those that die, and
runs the control plane. Workers accept connections on the ports, store instances, and send reports
to the control process.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from contextlib import suppress
from typing import Final

from oxidicom.app.control_host import ControlHost, LoopFactory, unusable_storage
from oxidicom.app.data_plane import Ports
from oxidicom.app.deadlines import ShutdownBudget
from oxidicom.app.folder_claims import FolderClaims
from oxidicom.app.worker_messages import (
    BeginAccepting,
    Drain,
    RegistrationQueued,
    ReloadCertificate,
)
from oxidicom.app.worker_process import WorkerProcess
from oxidicom.backoff import Backoff
from oxidicom.certificates import server_context, tls_files
from oxidicom.errors import OperatorError
from oxidicom.logevents import event
from oxidicom.net.listener import LISTEN_BACKLOG, cannot_listen
from oxidicom.net.shared_port import Scoreboard, listening_sockets
from oxidicom.ports import SeriesCompleted
from oxidicom.settings import Settings

logger = logging.getLogger("oxidicom.workers")

FIRST_RESTART_S: Final = 0.1
GREATEST_RESTART_S: Final = 5.0
"""Seconds from a worker's death to its replacement; doubled from the first to the greatest while
workers die early."""
EARLY_DEATH_S: Final = 5.0
"""Lifetime in seconds below which a worker has died early, so that its replacement may, too."""


class Supervisor:
    """A receiver of several processes. Call `start`, then `drain`, once each, on the main loop."""

    def __init__(self, settings: Settings, loop_factory: LoopFactory | None = None) -> None:
        self._settings = settings
        self._control = ControlHost(settings, loop_factory, self._series_completed, shared=True)
        self._plain: list[socket.socket] = []
        self._tls: list[socket.socket] = []
        self._workers: dict[int, WorkerProcess] = {}
        """The running workers by number, from 1; one that died is missing until it is replaced."""
        self._replacing: list[asyncio.Task[None]] = []
        """One task for each number; done when the receiver drains and the worker has ended."""
        self._draining = asyncio.Event()

    # ---- start ---------------------------------------------------------------------------

    async def start(self) -> Ports:
        """Recover the series that earlier processes left open, and begin to accept connections.

        Return the bound ports. Raises OperatorError if the storage, the certificate or a port
        cannot be used, or a worker cannot start.
        """
        files = tls_files(self._settings)
        if files is not None:
            server_context(files)  # checked here, or each worker would report the same fault
        try:
            self._control.open()
        except OSError as error:
            raise unusable_storage(error) from error
        self._plain = self._bind(self._settings.listener_port)
        self._tls = self._bind(self._settings.tls_port, tls=True)
        await self._control.make()
        self._claims = FolderClaims(self._control.tracker.series_of)
        try:
            await self._start_workers()
        except OperatorError:
            for worker in self._workers.values():
                worker.kill()
            self._control.abandon()
            raise
        # Before workers accept, so that further instances of recovered series get the same folder.
        await self._control.start()
        for worker in self._workers.values():
            worker.send(BeginAccepting())
        self._replacing = [
            asyncio.create_task(self._replace_until_drain(worker))
            for worker in self._workers.values()
        ]
        return Ports(_port_of(self._plain), _port_of(self._tls), self._control.admin_port)

    def _bind(self, port: int | None, *, tls: bool = False) -> list[socket.socket]:
        """Return the listening sockets of a port, none if `port` is None. Raises OperatorError."""
        if port is None:
            return []
        host = self._settings.listener_host
        try:
            return listening_sockets(host, port, LISTEN_BACKLOG)
        except OSError as error:
            raise cannot_listen(host, port, error, tls=tls) from error

    async def _start_workers(self) -> None:
        """Start all workers and wait until they are ready. Raises OperatorError if one fails."""
        numbers = range(1, self._settings.workers + 1)
        try:
            self._scoreboard = Scoreboard.create(len(numbers))
            for number in numbers:
                self._workers[number] = self._start_worker(number)
        except OSError as error:
            raise OperatorError(
                f"cannot start {len(numbers)} workers: {error.strerror}; set OXIDICOM_WORKERS to "
                "fewer, or allow more processes and files"
            ) from error
        for worker in self._workers.values():
            await worker.ready.wait()
            if worker.faults:
                raise OperatorError(*worker.faults)
            if worker.ended.is_set():
                status = _describe_exit(await worker.exit_status())
                raise OperatorError(f"a worker ended while starting, with {status}")

    def _start_worker(self, number: int) -> WorkerProcess:
        """Start one worker. Raises OSError."""
        return WorkerProcess(
            number,
            self._settings,
            self._plain,
            self._tls,
            self._scoreboard,
            self._control.name,
            self._claims,
            self._control.report,
            lambda: self._control.backlog,
            self._control.alive,
        )

    # ---- while it receives ---------------------------------------------------------------

    async def _replace_until_drain(self, worker: WorkerProcess) -> None:
        """Replace the worker, and each of its replacements, when it dies, until the drain."""
        backoff = Backoff(FIRST_RESTART_S, GREATEST_RESTART_S)
        while True:
            await worker.ended.wait()
            try:
                await self._clean_up(worker)
            except Exception as error:  # continue: not to replace the worker would be worse
                event(logger, logging.ERROR, "clean-up after a dead worker failed", exc_info=error)
            if time.monotonic() - worker.began >= EARLY_DEATH_S:
                backoff.reset()
            replacement = await self._replace(worker.number, backoff)
            if replacement is None:
                return
            worker = replacement

    async def _replace(self, number: int, backoff: Backoff) -> WorkerProcess | None:
        """Start a worker of this number after a delay, and return it once it is ready or has ended.

        Return None if the drain begins before it is started.
        """
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._draining.wait(), backoff.failed())
            if self._draining.is_set():
                return None
            try:
                worker = self._workers[number] = self._start_worker(number)
            except OSError as error:
                event(
                    logger,
                    logging.ERROR,
                    "worker process could not be created; retrying",
                    error=error,
                )
                continue
            await worker.ready.wait()
            for fault in worker.faults:
                event(logger, logging.ERROR, "worker cannot start", fault=fault)
            if not worker.ended.is_set():
                worker.send(Drain() if self._draining.is_set() else BeginAccepting())
                event(logger, logging.INFO, "worker replaced", worker=number, pid=worker.pid)
            return worker

    async def _clean_up(self, worker: WorkerProcess) -> None:
        """Free the resources of an ended worker, and recover its series unless it drained."""
        del self._workers[worker.number]
        self._scoreboard.vacate(worker.number - 1)
        self._control.dead(worker.number)
        status = await worker.exit_status()
        if status == 0 and self._draining.is_set():
            self._claims.forget(worker.writer)
            return
        series = await self._control.worker_lost(worker.writer, worker.associations)
        # Only now: until its series are recovered, only its claims determine their folders.
        self._claims.forget(worker.writer)
        event(
            logger,
            logging.ERROR,
            "worker died",
            worker=worker.number,
            pid=worker.pid,
            end=_describe_exit(status),
            associations=len(worker.associations),
            series=series,
        )

    def reload(self) -> None:
        """Have all workers read the certificate again."""
        for worker in self._workers.values():
            worker.send(ReloadCertificate())

    def _series_completed(self, completed: SeriesCompleted) -> None:
        message = RegistrationQueued(*completed.series.key, list(completed.associations))
        for worker in self._workers.values():
            worker.send(message)

    # ---- the end -------------------------------------------------------------------------

    async def drain(self) -> None:
        """Let associations end, then complete, register and deliver all series (decision 38).

        Workers that do not end in time are killed. Registrations that cannot be delivered in time
        stay in the outbox.
        """
        began = time.monotonic()
        budget = ShutdownBudget(associations_s=self._settings.drain_timeout)
        self._draining.set()
        self._control.drain()
        for each in (*self._plain, *self._tls):
            each.close()
        for worker in self._workers.values():
            worker.send(Drain())
        _, late = await asyncio.wait(self._replacing, timeout=budget.workers_s)
        if late:
            event(
                logger, logging.WARNING, "workers did not stop in time; killed", workers=len(late)
            )
            for worker in self._workers.values():
                worker.kill()
            await asyncio.wait(late, timeout=budget.killed_workers_s)
        await self._control.finish(time.monotonic() - began)


def _port_of(listening: list[socket.socket]) -> int | None:
    return listening[0].getsockname()[1] if listening else None


def _describe_exit(status: int) -> str:
    """Return the signal's name for a status of -N, which means signal N, else `exit status N`."""
    if status >= 0:
        return f"exit status {status}"
    names = {number.value: number.name for number in signal.Signals}
    return names.get(-status, f"signal {-status}")
