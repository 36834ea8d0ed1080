"""Creates, starts and ends the control plane, which runs on a thread of its own.

The data plane runs on the main loop of the same process, or in `OXIDICOM_WORKERS` worker processes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from oxidicom import __version__
from oxidicom.app.control_plane import ControlPlane, ControlThread
from oxidicom.app.deadlines import ControlPlaneDeadlines, ShutdownBudget
from oxidicom.app.lonk_observer import LonkObserver
from oxidicom.app.registrar import Registrar
from oxidicom.app.takeover import Recovered, Takeover
from oxidicom.below_root import open_root
from oxidicom.cancellation import finish_by
from oxidicom.errors import OperatorError
from oxidicom.logevents import event
from oxidicom.notify.lonk_messages import ProgressLimiter
from oxidicom.notify.lonk_publisher import LonkPublisher
from oxidicom.notify.outbox_relay import MAX_BROKER_DELIVERIES, OutboxRelay
from oxidicom.notify.outbox_store import Outbox
from oxidicom.notify.publisher import BrokerPublisher, Publisher
from oxidicom.observers import (
    Observer,
    Observers,
    RegistrationResolved,
    TraceContext,
)
from oxidicom.ports import CountQueryResult, Reports, SeriesCompleted, SeriesInfo, SeriesKey
from oxidicom.scu.count_queries import CountQueries
from oxidicom.series.journal import Journal
from oxidicom.series.leases import ReceiverLeases
from oxidicom.series.tracker import SeriesTracker
from oxidicom.settings import Settings
from oxidicom.settings.brokers import broker_of
from oxidicom.store.instance_files import keep_newest
from oxidicom.telemetry import start as start_telemetry
from oxidicom.telemetry.logs import on_loop_error

if TYPE_CHECKING:
    from oxidicom.app.admin import AdminEndpoint
    from oxidicom.notify.cube_eager import EagerRegistrar

logger = logging.getLogger("oxidicom")

T = TypeVar("T")

MIN_SETTLE_OF_WORKERS_S: Final = 0.1
"""Least settle time in seconds if several workers receive. Their reports take 10 to 20 ms, so the
control plane may not know yet of another association with instances of the series."""

LoopFactory = Callable[[], asyncio.AbstractEventLoop]
"""Creates an event loop; None in its place means asyncio's own."""


def journal_of(settings: Settings, writer: str) -> Journal:
    """Return the journal, which marks new entries with `writer`. Raises OSError."""
    return Journal(settings.state_dir / "journal", settings.fsync, writer)


def unusable_storage(error: OSError) -> OperatorError:
    """Return the OperatorError for an OSError of the files root or the state folder."""
    return OperatorError(
        f"cannot use the storage: {error.strerror} ({error.filename}); OXIDICOM_FILES_ROOT "
        "and OXIDICOM_STATE_DIR must be folders that user "
        f"{os.geteuid()} may write"
    )


class ControlHost:
    """Runs the control plane. Create it, and call its methods, on the main loop.

    Call `open`, `make` and `start`, then `finish`; or `abandon` if the start fails after `make`.
    On the main loop, `completed` is called with each complete series once its registration is in
    the outbox, or at once if it has no instances; `adopted` is called with each series that is
    taken over after the start. `shared` means that several worker processes store into one folder.
    """

    def __init__(
        self,
        settings: Settings,
        loop_factory: LoopFactory | None,
        completed: Callable[[SeriesCompleted], None],
        *,
        adopted: Callable[[Recovered], None] = lambda _: None,
        shared: bool = False,
    ) -> None:
        self._settings = settings
        self._budget = ShutdownBudget(associations_s=settings.drain_timeout)
        self._loop = asyncio.get_running_loop()
        self._thread = ControlThread(loop_factory)
        self._completed = completed
        self._adopted = adopted
        self._shared = shared
        self._broker_start: asyncio.Task[bool] | None = None
        self.admin: AdminEndpoint | None = None

    # ---- start ---------------------------------------------------------------------------

    def open(self) -> None:
        """Acquire the lease, and recover the series that earlier processes left open.

        Raises OSError if the files root or the state folder cannot be used.
        """
        settings = self._settings
        settings.files_root.mkdir(parents=True, exist_ok=True)
        settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._root_fd = open_root(settings.files_root)
        self._leases = ReceiverLeases(settings.state_dir / "receivers")
        self._leases.acquire()
        self.journal = journal_of(settings, self.name)
        self._outbox = Outbox(settings.state_dir / "outbox", sync=settings.fsync)
        self._takeover = Takeover(self.journal, self._leases, self._root_fd)
        self.recovered = self._takeover.at_start()

    async def make(self) -> None:
        """Start the thread and create the control plane.

        Afterwards `report` accepts reports, and `start` begins delivery. Raises OperatorError if
        the admin port cannot be bound.
        """
        if self._settings.admin_port is not None:
            from oxidicom.app.admin import AdminEndpoint

            self.admin = AdminEndpoint(self._settings)
        self._thread.start()
        self._plane = await self._on_control(self._make_plane())
        self.report: Reports = self._plane.report

    async def _make_plane(self) -> ControlPlane:
        """Return a new control plane. Runs on the control plane's loop."""
        settings = self._settings
        asyncio.get_running_loop().set_exception_handler(on_loop_error)
        telemetry = start_telemetry(
            enabled=settings.otel_enabled,
            protocol=settings.otlp_protocol,
            service_version=__version__,
        )
        settle = max(settings.series_settle, MIN_SETTLE_OF_WORKERS_S if self._shared else 0.0)
        self.tracker = SeriesTracker(settle, settings.incomplete_settle)
        broker = make_broker_publisher(settings)
        lonk = make_lonk_publisher(settings)
        observers = self._make_observers(telemetry.observers, broker, lonk)
        publisher, eager = self._make_publisher(broker, observers, telemetry.trace)
        count_queries = self._make_count_queries(observers)
        relay = self._make_relay(publisher, observers, lonk)
        registrar = Registrar(
            files_root=settings.files_root,
            journal=self.journal,
            relay=relay,
            observers=observers,
            trace=telemetry.trace,
            completed=self._series_completed,
            tidy=self._keep_newest,
            # Only eager registration can tell CUBE of the expected count, by custom metadata.
            expected=count_queries.answer if count_queries and eager else None,
            has_broker=publisher is not None,
        )
        return ControlPlane(
            tracker=self.tracker,
            count_queries=count_queries,
            registrar=registrar,
            relay=relay,
            lonk=lonk,
            observers=observers,
            trace=telemetry.trace,
            eager=eager,
            clock=time.monotonic,
        )

    def _make_observers(
        self,
        telemetry: Iterable[Observer],
        broker: BrokerPublisher | None,
        lonk: LonkPublisher | None,
    ) -> Observers:
        """Return the observers of the control plane: telemetry, status board and LONK."""
        observers = [*telemetry]
        if self.admin is not None:
            observers.append(self.admin.make_board(self.tracker, self._outbox, broker))
        if lonk is not None:
            observers.append(LonkObserver(lonk))
        return Observers(observers)

    def _make_publisher(
        self, broker: BrokerPublisher | None, observers: Observers, trace: TraceContext
    ) -> tuple[Publisher | None, EagerRegistrar | None]:
        """Return the publisher and the eager registrar; each is None if the settings need none."""
        if self._settings.registers_over_http:
            from oxidicom.app.http_registration import publish_over_http

            expected = self.tracker.expected_of
            return publish_over_http(self._settings, self._root_fd, observers, trace, expected)
        if broker is not None:
            self._broker_start = asyncio.create_task(broker.start())
        return broker, None

    def _make_relay(
        self, publisher: Publisher | None, observers: Observers, lonk: LonkPublisher | None
    ) -> OutboxRelay:
        """Return the relay, after giving it and `lonk` to the health checks."""
        settings = self._settings
        over_http = settings.registers_over_http

        def resolved(series: SeriesKey, refusal: str | None) -> None:
            observers.registration_resolved(RegistrationResolved(series, refusal))

        relay = OutboxRelay(
            self._outbox,
            publisher,
            max_in_flight=settings.pushers if over_http else MAX_BROKER_DELIVERIES,
            on_outcome=resolved,
        )
        if self.admin is not None:
            self.admin.attach(relay, lonk)
        return relay

    def _make_count_queries(self, observers: Observers) -> CountQueries | None:
        settings = self._settings
        if not settings.pacs_addresses:
            return None
        # Imported here, so that a receiver without a PACS to query does not load it.
        from oxidicom.scu.find import find_count

        def on_result(result: CountQueryResult) -> None:
            if result.expected is not None:
                self.tracker.expect(result.series.key, result.expected)
            observers.count_query_ended(result)

        return CountQueries(settings.pacs_addresses, settings.scp_aet, find_count, on_result)

    def _keep_newest(self, series: SeriesInfo) -> None:
        """Remove the older files of instances that were received again. Raises OSError.

        Workers always leave them for this call. A single process removes them itself, unless it
        dies between storing the new file and removing the old one.
        """
        keep_newest(self._root_fd, series.path.encode())

    def _series_completed(self, completed: SeriesCompleted) -> None:
        self._loop.call_soon_threadsafe(self._completed, completed)

    async def start(self) -> None:
        """Begin delivery and takeover; the settle time of recovered series begins now."""
        await self._on_control(self._start())

    async def _start(self) -> None:
        """Do the work of `start` on the control plane's loop."""
        await self._plane.start(self.recovered)
        if self.admin is not None:
            self.admin.start()
        self._takeover.start(self._adopt)

    # ---- while it runs -------------------------------------------------------------------

    def _adopt(self, recovered: Sequence[Recovered]) -> None:
        """Pass series that were taken over to both planes. Runs on the control plane's loop."""
        for each in recovered:
            self._loop.call_soon_threadsafe(self._adopted, each)
        self._plane.worker_lost(recovered, ())

    @property
    def name(self) -> str:
        """Name of this receiver, which is also that of its lease."""
        return self._leases.name

    @property
    def backlog(self) -> int:
        """Number of reports that have not been processed yet."""
        return self._plane.backlog

    @property
    def admin_port(self) -> int | None:
        """Number of the bound admin port; None if there is no admin endpoint."""
        return None if self.admin is None else self.admin.port

    def alive(self, number: int) -> None:
        """Record a heartbeat of receiving process `number`."""
        if self.admin is not None:
            self.admin.liveness.beat(number)

    def dead(self, number: int) -> None:
        """Record that receiving process `number` has ended."""
        if self.admin is not None:
            self.admin.liveness.died(number)

    async def worker_lost(self, writer: str, associations: Iterable[str]) -> int:
        """Recover the series of a dead worker, and end its open `associations`, given by ULID.

        `writer` is the mark of its journal entries. Return the number of series recovered now; if
        the journal cannot be read, 0, and they are recovered later.
        """
        return await self._on_control(self._worker_lost(writer, tuple(associations)))

    async def _worker_lost(self, writer: str, associations: tuple[str, ...]) -> int:
        """Do the work of `worker_lost` on the control plane's loop."""
        recovered = await self._takeover.of_worker(writer)
        self._plane.worker_lost(recovered, associations)
        return len(recovered)

    # ---- the end -------------------------------------------------------------------------

    def drain(self) -> None:
        """Let the admin endpoint report from now on that the receiver is not ready."""
        if self.admin is not None:
            self.admin.draining = True

    async def finish(self, elapsed_s: float) -> None:
        """Complete and register all series, deliver what there is time for, and end the thread.

        `elapsed_s` is the time since the drain began, in seconds. What cannot be delivered in time
        stays in the outbox; what cannot be registered in time stays in the journal.
        """
        within = self._budget.control_plane_s(self._settings.workers, elapsed_s)
        try:
            await asyncio.wait_for(self._on_control(self._finish(within)), within)
        except TimeoutError:
            # All deadlines lie before this one: the loop itself hangs, perhaps in a client library.
            event(
                logger,
                logging.WARNING,
                "broker or NATS did not answer before the shutdown deadline",
            )
        self.abandon()

    async def _finish(self, within: float) -> None:
        """Do the work of `finish` on the control plane's loop, in `within` seconds."""
        deadlines = ControlPlaneDeadlines.of(within, time.monotonic())
        self._takeover.stop()
        if self._broker_start is not None:
            # Otherwise closing the connection would wait for a connection attempt that hangs.
            self._broker_start.cancel()
        if self.admin is not None:
            self.admin.stop_probes()
        registered = await self._plane.finish(deadlines)
        if registered and self._takeover.found_all:
            with suppress(OSError):  # includes TimeoutError
                await finish_by(deadlines.lease, asyncio.to_thread(self._leases.release))
        self._takeover.close()
        if self.admin is not None:
            with suppress(TimeoutError):
                await finish_by(deadlines.admin, self.admin.stop())

    def abandon(self) -> None:
        """End the control plane's thread without registering anything."""
        self._thread.stop(self._budget.control_loop_s)

    async def _on_control(self, work: Coroutine[object, object, T]) -> T:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._thread.loop))


def make_lonk_publisher(settings: Settings) -> LonkPublisher | None:
    """Return the publisher of LONK messages, or None if no NATS server is set."""
    if settings.nats_address is None:
        return None
    return LonkPublisher(
        settings.nats_address,
        settings.root_subject,
        ProgressLimiter(settings.progress_interval),
        dev_sleep=settings.dev_sleep,
        ca=settings.broker_ca,
    )


def make_broker_publisher(settings: Settings) -> BrokerPublisher | None:
    """Return the publisher for the broker, or None if no broker is set."""
    url = settings.broker
    if url is None:
        return None
    publisher: Callable[..., BrokerPublisher] = broker_of(url).load_publisher()
    return publisher(url, settings.queue_name, settings.broker_ca)


def data_folder(settings: Settings) -> Path:
    """Return the folder that contains the folders of all series."""
    return settings.files_root / "SERVICES" / "PACS"
