"""A whole receiver: storage and listener on the caller's loop, the control plane beside it."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Final, TypeVar

from oxidicom import __version__
from oxidicom._writer import filesystem_type
from oxidicom.app.control import FLUSH, ControlPlane, ControlThread
from oxidicom.app.registrar import Registrar
from oxidicom.buffers import BufferPool
from oxidicom.errors import OperatorError
from oxidicom.logevents import event
from oxidicom.net.listener import Listener
from oxidicom.net.watch import Limits
from oxidicom.notify.courier import Courier
from oxidicom.notify.lonk import ProgressLimiter
from oxidicom.notify.nats import LonkPublisher
from oxidicom.notify.outbox import Outbox
from oxidicom.ports import SeriesCompleted, SeriesInfo
from oxidicom.series.journal import Journal
from oxidicom.series.recovery import recover
from oxidicom.series.tracker import SeriesTracker
from oxidicom.settings import Settings
from oxidicom.store.folders import list_instances
from oxidicom.store.quarantine import Quarantine
from oxidicom.store.storage import Storage
from oxidicom.store.writing import LOCAL_FILE_SYSTEMS, WritePolicy, Writers
from oxidicom.telemetry import start as start_telemetry
from oxidicom.telemetry.logs import on_loop_error
from oxidicom.wire.negotiation import Policy

logger = logging.getLogger("oxidicom")

T = TypeVar("T")

_GRACE: Final = 0.5
"""Seconds for the control plane's loop to end once everything is flushed."""

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def policy_of(settings: Settings) -> Policy:
    return Policy(
        ae_title=settings.scp_aet,
        check_called=settings.scp_check_called_aet,
        allowed_calling=frozenset(settings.scp_allowed_calling_aets),
        promiscuous=settings.scp_promiscuous,
        uncompressed_only=settings.scp_uncompressed_only,
        strict=settings.scp_strict,
        max_pdu_length=settings.scp_max_pdu_length,
    )


class Receiver:
    """`start`, then `drain` or `abandon`, once each, on one running loop."""

    def __init__(self, settings: Settings, loop_factory: LoopFactory | None = None) -> None:
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._control_thread = ControlThread(loop_factory)
        self._clock = time.monotonic
        self._broker_start: asyncio.Task[bool] | None = None

    # ---- start ---------------------------------------------------------------------------

    async def start(self) -> int:
        """Recover, then listen; returns the port. Raises OperatorError."""
        settings = self._settings
        try:
            self._journal, self._outbox, self._storage = self._open_storage()
            recovered = self._recover()
        except OSError as error:
            raise OperatorError(
                f"cannot use the storage: {error.strerror} ({error.filename}); OXIDICOM_FILES_ROOT "
                "and OXIDICOM_STATE_DIR must be folders that user "
                f"{os.geteuid()} may write"
            ) from error
        self._control_thread.start()
        self._plane = await self._on_control(self._make_control_plane())
        self._storage.reports = self._plane.report
        self._listener = Listener(
            policy=policy_of(settings),
            limits=Limits(settings.artim_timeout, settings.idle_timeout),
            pool=BufferPool(settings.buffer_memory),
            store=self._storage,
            reports=self._plane.report,
            max_associations=settings.max_associations,
            allowed_networks=settings.allowed_networks,
            on_bug=self._on_bug,
            clock=self._clock,
        )
        try:
            port = await self._listener.start(settings.listener_host, settings.listener_port)
        except OperatorError:
            self._control_thread.stop(_GRACE)
            self._storage.close()
            raise
        await self._on_control(self._plane.start(recovered))
        return port

    def _open_storage(self) -> tuple[Journal, Outbox, Storage]:
        """Raises OSError."""
        settings = self._settings
        settings.files_root.mkdir(parents=True, exist_ok=True)
        settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        journal = Journal(settings.state_dir / "journal", settings.fsync)
        outbox = Outbox(settings.state_dir / "outbox", sync=settings.fsync)
        storage = Storage(
            settings.files_root,
            writers=self._make_writers(),
            journal=journal,
            reports=lambda report: None,
            clock=self._clock,
            fsync=settings.fsync,
            min_free_space=settings.min_free_space,
            quarantine=self._quarantine(),
            on_bug=self._on_bug,
        )
        swept = storage.temporary.sweep()
        if swept:
            event(logger, logging.INFO, "removed incomplete instances", files=swept)
        return journal, outbox, storage

    def _make_writers(self) -> Writers:
        settings = self._settings
        # The journal is written beside the first instance of each series.
        local = all(map(_is_local, (settings.files_root, settings.state_dir)))
        policy = WritePolicy(settings.write_mode, local=local, fsync=settings.fsync)
        return Writers(self._loop, policy, settings.writer_threads, self._clock)

    def _quarantine(self) -> Quarantine | None:
        settings = self._settings
        return Quarantine(settings.files_root, settings.state_dir) if settings.quarantine else None

    def _recover(self) -> list[tuple[SeriesInfo, tuple[str, ...], frozenset[str]]]:
        faults: list[str] = []
        recovered = []
        for series, associations in recover(self._journal, faults):
            self._storage.folders.restore(series, associations)
            recovered.append((series, associations, self._instances_of(series)))
        for fault in faults:
            event(logger, logging.ERROR, "journal entry is of no use", fault=fault)
        if recovered:
            event(logger, logging.WARNING, "series found open after a crash", series=len(recovered))
        return recovered

    def _instances_of(self, series: SeriesInfo) -> frozenset[str]:
        try:
            return frozenset(list_instances(self._storage.root_fd, series.path.encode()))
        except OSError:
            return frozenset()

    async def _make_control_plane(self) -> ControlPlane:
        """On the control plane's loop."""
        settings = self._settings
        asyncio.get_running_loop().set_exception_handler(on_loop_error)
        publisher = None
        if settings.broker is not None:
            # Imported only by those who have a broker: 5 MB and 50 ms.
            from oxidicom.notify.amqp import AmqpPublisher

            publisher = AmqpPublisher(settings.broker, settings.queue_name, settings.broker_ca)
            self._broker_start = asyncio.create_task(publisher.start())
        lonk = None
        if settings.nats_address is not None:
            lonk = LonkPublisher(
                settings.nats_address,
                settings.root_subject,
                ProgressLimiter(settings.progress_interval),
                dev_sleep=settings.dev_sleep,
                ca=settings.broker_ca,
            )
        telemetry = start_telemetry(
            enabled=settings.otel_enabled,
            protocol=settings.otlp_protocol,
            service_version=__version__,
        )
        courier = Courier(self._outbox, publisher)
        registrar = Registrar(
            files_root=settings.files_root,
            journal=self._journal,
            courier=courier,
            lonk=lonk,
            telemetry=telemetry,
            completed=self._series_completed,
            has_broker=publisher is not None,
        )
        return ControlPlane(
            tracker=SeriesTracker(settings.series_settle, settings.recovery_settle),
            registrar=registrar,
            courier=courier,
            lonk=lonk,
            telemetry=telemetry,
            clock=self._clock,
        )

    # ---- the end -------------------------------------------------------------------------

    async def drain(self) -> None:
        """Let associations end, then register and flush what there is (decision 38)."""
        deadline = self._clock() + self._settings.drain_timeout + FLUSH
        await self._listener.stop_accepting()
        await self._listener.drain(self._settings.drain_timeout, FLUSH / 2)
        await asyncio.to_thread(self._storage.writers.stop, FLUSH / 5)
        await asyncio.sleep(0)  # completions that the writers posted last
        within = min(FLUSH, deadline - self._clock())
        try:
            await asyncio.wait_for(self._on_control(self._finish_control_plane(within)), within)
        except TimeoutError:
            # A client library that does not let go; the outbox has everything.
            event(logger, logging.WARNING, "a broker or NATS did not answer in time")
        self._control_thread.stop(_GRACE)
        self._storage.close()

    async def _finish_control_plane(self, within: float) -> None:
        """On the control plane's loop."""
        if self._broker_start is not None:
            # Whoever waits for a broker that hangs would keep us from closing the connection.
            self._broker_start.cancel()
        await self._plane.finish(within)

    # ---- between the planes --------------------------------------------------------------

    async def _on_control(self, work: Coroutine[object, object, T]) -> T:
        return await asyncio.wrap_future(
            asyncio.run_coroutine_threadsafe(work, self._control_thread.loop)
        )

    def _series_completed(self, completed: SeriesCompleted) -> None:
        self._loop.call_soon_threadsafe(
            self._storage.folders.completed, completed.series.key, completed.associations
        )

    def _on_bug(self, error: BaseException) -> None:
        event(logger, logging.ERROR, "a bug of ours, please report it", exc_info=error)


def _is_local(folder: Path) -> bool:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return filesystem_type(fd) in LOCAL_FILE_SYSTEMS
    finally:
        os.close(fd)


def data_folder(settings: Settings) -> Path:
    """Where CUBE finds what was received."""
    return settings.files_root / "SERVICES" / "PACS"
