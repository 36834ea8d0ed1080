"""A whole receiver in several processes: this one notifies, keeps the books, and keeps as many
workers at work as `OXIDICOM_WORKERS` says; they receive on the ports that this one has bound."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from contextlib import suppress
from typing import Final

from oxidicom.app.control_host import ControlHost, LoopFactory, unusable_storage
from oxidicom.app.control_plane import FLUSH
from oxidicom.app.data_plane import DRAIN_EXTRA, WRITERS_STOP, Ports
from oxidicom.app.folder_claims import FolderClaims
from oxidicom.app.worker_messages import Begin, Drain, Registered, Reload
from oxidicom.app.worker_process import WorkerProcess
from oxidicom.certificates import server_context, tls_files
from oxidicom.errors import OperatorError
from oxidicom.logevents import event
from oxidicom.net.listener import BACKLOG, cannot_listen
from oxidicom.net.shared_port import Scoreboard, listening_sockets
from oxidicom.ports import SeriesCompleted
from oxidicom.settings import Settings

logger = logging.getLogger("oxidicom.workers")

FIRST_RESTART: Final = 0.1
LAST_RESTART: Final = 5.0
"""Seconds until a worker is replaced; doubled from the first to the last while they die young."""
YOUNG: Final = 5.0
"""Seconds."""

LAST_WORDS: Final = 0.3
"""Seconds for workers to tell the rest and to end, once they have drained."""


class Supervisor:
    """As Receiver: `start`, then `drain`, once each, on one running loop."""

    def __init__(self, settings: Settings, loop_factory: LoopFactory | None = None) -> None:
        self._settings = settings
        self._notifier = ControlHost(settings, loop_factory, self._series_completed, shared=True)
        self._plain: list[socket.socket] = []
        self._tls: list[socket.socket] = []
        self._workers: dict[int, WorkerProcess] = {}
        """By number; one that died is missing until it is replaced."""
        self._keepers: list[asyncio.Task[None]] = []
        self._draining = asyncio.Event()

    # ---- start ---------------------------------------------------------------------------

    async def start(self) -> Ports:
        """Recover, then receive. Raises OperatorError."""
        files = tls_files(self._settings)
        if files is not None:
            server_context(files)  # or each worker would tell of it
        try:
            self._notifier.open()
        except OSError as error:
            raise unusable_storage(error) from error
        self._plain = self._bound(self._settings.listener_port)
        self._tls = self._bound(self._settings.tls_port, tls=True)
        await self._notifier.make()
        self._names = FolderClaims(self._notifier.tracker.series_of)
        try:
            await self._start_workers()
        except OperatorError:
            for worker in self._workers.values():
                worker.kill()
            self._notifier.abandon()
            raise
        # First, so that what was found open has its names when the first instance comes.
        await self._notifier.start()
        for worker in self._workers.values():
            worker.send(Begin())
        self._keepers = [
            asyncio.create_task(self._keep(worker)) for worker in self._workers.values()
        ]
        return Ports(_port_of(self._plain), _port_of(self._tls), self._notifier.admin_port)

    def _bound(self, port: int | None, *, tls: bool = False) -> list[socket.socket]:
        """None where there is no such port; raises OperatorError."""
        if port is None:
            return []
        host = self._settings.listener_host
        try:
            return listening_sockets(host, port, BACKLOG)
        except OSError as error:
            raise cannot_listen(host, port, error, tls=tls) from error

    async def _start_workers(self) -> None:
        """All of them, or raises OperatorError."""
        numbers = range(1, self._settings.workers + 1)
        try:
            self._load = Scoreboard.create(len(numbers))
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
                status = _in_words(await worker.exit_status())
                raise OperatorError(f"a worker ended at its start, with {status}")

    def _start_worker(self, number: int) -> WorkerProcess:
        """Raises OSError."""
        return WorkerProcess(
            number,
            self._settings,
            self._plain,
            self._tls,
            self._load,
            self._notifier.name,
            self._names,
            self._notifier.report,
            lambda: self._notifier.backlog,
            self._notifier.alive,
        )

    # ---- while it receives ---------------------------------------------------------------

    async def _keep(self, worker: WorkerProcess) -> None:
        """See to it that there is a worker of this number until we drain."""
        delay = FIRST_RESTART
        while True:
            await worker.ended.wait()
            try:
                await self._bury(worker)
            except Exception as error:  # others are to go on
                event(logger, logging.ERROR, "worker clean-up failed", exc_info=error)
            young = time.monotonic() - worker.began < YOUNG
            replacement = await self._replace(worker.number, delay)
            if replacement is None:
                return
            delay = min(delay * 2, LAST_RESTART) if young else FIRST_RESTART
            worker = replacement

    async def _replace(self, number: int, delay: float) -> WorkerProcess | None:
        """None: we drain."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._draining.wait(), delay)
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
                delay = min(delay * 2, LAST_RESTART)
                continue
            await worker.ready.wait()
            for fault in worker.faults:
                event(logger, logging.ERROR, "worker cannot start", fault=fault)
            if not worker.ended.is_set():
                worker.send(Drain() if self._draining.is_set() else Begin())
                event(logger, logging.INFO, "worker replaced", worker=number, pid=worker.pid)
            return worker

    async def _bury(self, worker: WorkerProcess) -> None:
        """What it stored is found by the journal; what it held is free."""
        del self._workers[worker.number]
        self._load.vacate(worker.number - 1)
        self._notifier.dead(worker.number)
        status = await worker.exit_status()
        if status == 0 and self._draining.is_set():
            self._names.forget(worker.writer)
            return
        series = await self._notifier.worker_lost(worker.writer, worker.associations)
        # Not before: until then its claims say how its series are called.
        self._names.forget(worker.writer)
        event(
            logger,
            logging.ERROR,
            "worker died",
            worker=worker.number,
            pid=worker.pid,
            end=_in_words(status),
            associations=len(worker.associations),
            series=series,
        )

    def reload(self) -> None:
        """Read the certificate again."""
        for worker in self._workers.values():
            worker.send(Reload())

    def _series_completed(self, completed: SeriesCompleted) -> None:
        message = Registered(*completed.series.key, list(completed.associations))
        for worker in self._workers.values():
            worker.send(message)

    # ---- the end -------------------------------------------------------------------------

    async def drain(self) -> None:
        """Let associations end, then register and flush what there is (decision 38)."""
        drain = self._settings.drain_timeout
        deadline = time.monotonic() + drain + FLUSH
        self._draining.set()
        self._notifier.drain()
        for each in (*self._plain, *self._tls):
            each.close()
        for worker in self._workers.values():
            worker.send(Drain())
        patience = drain + DRAIN_EXTRA + WRITERS_STOP + LAST_WORDS
        _, late = await asyncio.wait(self._keepers, timeout=patience)
        if late:
            event(
                logger, logging.WARNING, "workers did not stop in time; killed", workers=len(late)
            )
            for worker in self._workers.values():
                worker.kill()
            await asyncio.wait(late, timeout=FLUSH / 10)
        await self._notifier.finish(max(0.5, min(FLUSH, deadline - time.monotonic())))


def _port_of(listening: list[socket.socket]) -> int | None:
    return listening[0].getsockname()[1] if listening else None


def _in_words(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    names = {number.value: number.name for number in signal.Signals}
    return names.get(-status, f"signal {-status}")
