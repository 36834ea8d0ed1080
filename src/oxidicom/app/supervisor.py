"""A receiver of several processes: this one, the control process, and its workers.

The control process binds the ports, starts as many workers as `OXIDICOM_WORKERS` says, and replaces
those that die. Workers accept connections on its ports, store, and report to it; it has the control
plane.
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
"""Seconds until a worker is replaced; doubled from the first while replacements die early."""
EARLY_DEATH_S: Final = 5.0
"""A worker that lives for fewer seconds has died early: the next may do so, too."""


class Supervisor:
    """One receiver of several processes. Call `start`, then `drain`, once each, on one loop."""

    def __init__(self, settings: Settings, loop_factory: LoopFactory | None = None) -> None:
        self._settings = settings
        self._control = ControlHost(settings, loop_factory, self._series_completed, shared=True)
        self._plain: list[socket.socket] = []
        self._tls: list[socket.socket] = []
        self._workers: dict[int, WorkerProcess] = {}
        """By number; a worker that died is missing until it is replaced."""
        self._replacing: list[asyncio.Task[None]] = []
        """One task for each worker; done when the receiver drains and the worker has ended."""
        self._draining = asyncio.Event()

    # ---- start ---------------------------------------------------------------------------

    async def start(self) -> Ports:
        """Recover what an earlier process left, then receive. Raises OperatorError."""
        files = tls_files(self._settings)
        if files is not None:
            server_context(files)  # a fault in them would be reported by each worker otherwise
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
        # Before workers accept: recovered series keep their folders when further instances come.
        await self._control.start()
        for worker in self._workers.values():
            worker.send(BeginAccepting())
        self._replacing = [
            asyncio.create_task(self._replace_until_drain(worker))
            for worker in self._workers.values()
        ]
        return Ports(_port_of(self._plain), _port_of(self._tls), self._control.admin_port)

    def _bind(self, port: int | None, *, tls: bool = False) -> list[socket.socket]:
        """Return listening sockets, none if `port` is None. Raises OperatorError."""
        if port is None:
            return []
        host = self._settings.listener_host
        try:
            return listening_sockets(host, port, LISTEN_BACKLOG)
        except OSError as error:
            raise cannot_listen(host, port, error, tls=tls) from error

    async def _start_workers(self) -> None:
        """Start all workers and wait until they are ready. Raises OperatorError."""
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
                raise OperatorError(f"a worker ended at its start, with {status}")

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
        """Replace the worker each time that it dies, until the receiver drains."""
        backoff = Backoff(FIRST_RESTART_S, GREATEST_RESTART_S)
        while True:
            await worker.ended.wait()
            try:
                await self._clean_up(worker)
            except Exception as error:  # a worker without a replacement would be worse
                event(logger, logging.ERROR, "clean-up after a dead worker failed", exc_info=error)
            if time.monotonic() - worker.began >= EARLY_DEATH_S:
                backoff.reset()
            replacement = await self._replace(worker.number, backoff)
            if replacement is None:
                return
            worker = replacement

    async def _replace(self, number: int, backoff: Backoff) -> WorkerProcess | None:
        """Start a worker of this number after a delay; None if the receiver drains by then."""
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
        """Free what an ended worker held, and recover its series unless it has drained."""
        del self._workers[worker.number]
        self._scoreboard.vacate(worker.number - 1)
        self._control.dead(worker.number)
        status = await worker.exit_status()
        if status == 0 and self._draining.is_set():
            self._claims.forget(worker.writer)
            return
        series = await self._control.worker_lost(worker.writer, worker.associations)
        # Only now: until its series are recovered, its claims say what their folders are.
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
        """Let workers read the certificate again."""
        for worker in self._workers.values():
            worker.send(ReloadCertificate())

    def _series_completed(self, completed: SeriesCompleted) -> None:
        message = RegistrationQueued(*completed.series.key, list(completed.associations))
        for worker in self._workers.values():
            worker.send(message)

    # ---- the end -------------------------------------------------------------------------

    async def drain(self) -> None:
        """Let associations end, then register and flush what there is (decision 38)."""
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
    """Return the text for an exit status of `subprocess`, where -N means signal N."""
    if status >= 0:
        return f"exit status {status}"
    names = {number.value: number.name for number in signal.Signals}
    return names.get(-status, f"signal {-status}")
