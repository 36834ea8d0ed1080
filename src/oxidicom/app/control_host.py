"""The notifying half of a receiver: journal, outbox, brokers, on a loop and a thread of their own.

The receiving half is in the same process, or in as many others as `OXIDICOM_WORKERS` says.
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
from oxidicom.app.deadlines import ControlPlaneDeadlines, ShutdownBudget, finish_by
from oxidicom.app.lonk_observer import LonkObserver
from oxidicom.app.registrar import Registrar
from oxidicom.app.takeover import Recovered, Takeover
from oxidicom.below_root import open_root
from oxidicom.errors import OperatorError
from oxidicom.logevents import event
from oxidicom.notify.lonk_messages import ProgressLimiter
from oxidicom.notify.lonk_publisher import LonkPublisher
from oxidicom.notify.outbox_relay import MAX_BROKER_DELIVERIES, OutboxRelay
from oxidicom.notify.outbox_store import Outbox
from oxidicom.notify.publisher import BrokerPublisher, Publisher
from oxidicom.observers import Observer, Observers
from oxidicom.ports import (
    CountQueryResult,
    RegistrationResolved,
    Reports,
    SeriesCompleted,
    SeriesInfo,
    SeriesKey,
)
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

logger = logging.getLogger("oxidicom")

T = TypeVar("T")

LAG: Final = 0.1
"""Seconds for which a series settles at least where several processes receive: their reports take
10 ms or two, and an association that has carried the series may not be known here yet."""

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def journal_of(settings: Settings, writer: str) -> Journal:
    """Raises OSError."""
    return Journal(settings.state_dir / "journal", settings.fsync, writer)


def unusable_storage(error: OSError) -> OperatorError:
    return OperatorError(
        f"cannot use the storage: {error.strerror} ({error.filename}); OXIDICOM_FILES_ROOT "
        "and OXIDICOM_STATE_DIR must be folders that user "
        f"{os.geteuid()} may write"
    )


class ControlHost:
    """`open`, `make`, `start`, then `finish` or `abandon`, from one running loop, on which
    `completed` is called for each series that is registered, and `adopted` for each that another
    receiver left and that is found while we run.

    `shared`: several processes put instances into one folder.
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
        """Find out what an earlier process left; raises OSError."""
        settings = self._settings
        settings.files_root.mkdir(parents=True, exist_ok=True)
        settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._root_fd = open_root(settings.files_root)
        self._roll = ReceiverLeases(settings.state_dir / "receivers")
        self._roll.acquire()
        self.journal = journal_of(settings, self.name)
        self._outbox = Outbox(settings.state_dir / "outbox", sync=settings.fsync)
        self._recovery = Takeover(self.journal, self._roll, self._root_fd)
        self.recovered = self._recovery.at_start()

    async def make(self) -> None:
        """Reports are taken from here on, and looked at after `start`. Raises OperatorError."""
        if self._settings.admin_port is not None:
            from oxidicom.app.admin import AdminEndpoint

            self.admin = AdminEndpoint(self._settings)
        self._thread.start()
        self._plane = await self._on_control(self._make_plane())
        self.report: Reports = self._plane.report

    async def _make_plane(self) -> ControlPlane:
        """On the control plane's loop."""
        settings = self._settings
        asyncio.get_running_loop().set_exception_handler(on_loop_error)
        telemetry = start_telemetry(
            enabled=settings.otel_enabled,
            protocol=settings.otlp_protocol,
            service_version=__version__,
        )
        settle = max(settings.series_settle, LAG if self._shared else 0.0)
        self.tracker = SeriesTracker(settle, settings.recovery_settle)
        broker = make_broker_publisher(settings)
        lonk = self._make_lonk()
        observing: list[Observer] = [*telemetry.observers]
        if self.admin is not None:
            observing.append(self.admin.make_board(self.tracker, self._outbox, broker))
        if lonk is not None:
            observing.append(LonkObserver(lonk))
        observers = Observers(observing)
        publisher: Publisher | None = broker
        early = None
        in_flight = MAX_BROKER_DELIVERIES
        if settings.cube_url is not None:
            from oxidicom.app.http_registration import publish_over_http

            publisher, early = publish_over_http(
                settings, self._root_fd, observers, telemetry.trace, self.tracker.expected_of
            )
            in_flight = settings.pushers
        elif broker is not None:
            self._broker_start = asyncio.create_task(broker.start())
        inquiries = self._make_inquiries(observers)

        def resolved(series: SeriesKey, refusal: str | None) -> None:
            observers.registration_resolved(RegistrationResolved(series, refusal))

        courier = OutboxRelay(self._outbox, publisher, max_in_flight=in_flight, on_outcome=resolved)
        if self.admin is not None:
            self.admin.attach(courier, lonk)
        registrar = Registrar(
            files_root=settings.files_root,
            journal=self.journal,
            relay=courier,
            observers=observers,
            trace=telemetry.trace,
            completed=self._series_completed,
            # Several processes leave older files to it, and one does if it dies in between.
            tidy=self._keep_newest,
            # Only custom metadata tell CUBE of it.
            expected=inquiries.answer if inquiries is not None and early is not None else None,
            has_broker=publisher is not None,
        )
        return ControlPlane(
            tracker=self.tracker,
            count_queries=inquiries,
            registrar=registrar,
            relay=courier,
            lonk=lonk,
            observers=observers,
            trace=telemetry.trace,
            eager=early,
            clock=time.monotonic,
        )

    def _make_lonk(self) -> LonkPublisher | None:
        """On the control plane's loop."""
        settings = self._settings
        if settings.nats_address is None:
            return None
        return LonkPublisher(
            settings.nats_address,
            settings.root_subject,
            ProgressLimiter(settings.progress_interval),
            dev_sleep=settings.dev_sleep,
            ca=settings.broker_ca,
        )

    def _make_inquiries(self, observers: Observers) -> CountQueries | None:
        """On the control plane's loop."""
        settings = self._settings
        if not settings.pacs_addresses:
            return None
        # Imported only by those who have somebody to ask.
        from oxidicom.scu.find import find_count

        def answered(asked: CountQueryResult) -> None:
            if asked.expected is not None:
                self.tracker.expect(asked.series.key, asked.expected)
            observers.count_query_ended(asked)

        return CountQueries(settings.pacs_addresses, settings.scp_aet, find_count, answered)

    def _keep_newest(self, series: SeriesInfo) -> None:
        keep_newest(self._root_fd, series.path.encode())

    def _series_completed(self, completed: SeriesCompleted) -> None:
        self._loop.call_soon_threadsafe(self._completed, completed)

    async def start(self) -> None:
        """Connections are accepted: what was found open settles from now on."""
        await self._on_control(self._start())

    async def _start(self) -> None:
        """On the control plane's loop."""
        await self._plane.start(self.recovered)
        if self.admin is not None:
            self.admin.start()
        self._recovery.start(self._adopt)

    # ---- in between ----------------------------------------------------------------------

    def _adopt(self, recovered: Sequence[Recovered]) -> None:
        """On the control plane's loop."""
        for each in recovered:
            self._loop.call_soon_threadsafe(self._adopted, each)
        self._plane.worker_lost(recovered, ())

    @property
    def name(self) -> str:
        """Of this receiver, as others on its state folder know it."""
        return self._roll.name

    @property
    def backlog(self) -> int:
        """Reports that nobody has looked at yet."""
        return self._plane.backlog

    @property
    def admin_port(self) -> int | None:
        return None if self.admin is None else self.admin.port

    def alive(self, number: int) -> None:
        """A receiving process' loop turns."""
        if self.admin is not None:
            self.admin.liveness.beat(number)

    def dead(self, number: int) -> None:
        if self.admin is not None:
            self.admin.liveness.died(number)

    async def worker_lost(self, writer: str, associations: Iterable[str]) -> int:
        """It died with these open. Returns how many series the journal has of it."""
        return await self._on_control(self._worker_lost(writer, tuple(associations)))

    async def _worker_lost(self, writer: str, associations: tuple[str, ...]) -> int:
        """On the control plane's loop."""
        recovered = await self._recovery.of_worker(writer)
        self._plane.worker_lost(recovered, associations)
        return len(recovered)

    # ---- the end -------------------------------------------------------------------------

    def drain(self) -> None:
        """We are about to end: whoever asks whether we are ready is told."""
        if self.admin is not None:
            self.admin.draining = True

    async def finish(self, elapsed_s: float) -> None:
        """Complete, register and flush what there is, `elapsed_s` seconds after SIGTERM."""
        within = self._budget.control_plane_s(self._settings.workers, elapsed_s)
        try:
            await asyncio.wait_for(self._on_control(self._finish(within)), within)
        except TimeoutError:
            # A client library that does not let go; the outbox has everything.
            event(
                logger,
                logging.WARNING,
                "broker or NATS did not answer before the shutdown deadline",
            )
        self.abandon()

    async def _finish(self, within: float) -> None:
        """On the control plane's loop."""
        deadlines = ControlPlaneDeadlines.of(within, time.monotonic())
        self._recovery.stop()
        if self._broker_start is not None:
            # Whoever waits for a broker that hangs would keep us from closing the connection.
            self._broker_start.cancel()
        if self.admin is not None:
            self.admin.stop_probes()
        registered = await self._plane.finish(deadlines)
        if registered and self._recovery.found_all:
            with suppress(OSError):  # a TimeoutError is one, too
                await finish_by(deadlines.lease, asyncio.to_thread(self._roll.release))
        self._recovery.close()
        if self.admin is not None:
            with suppress(TimeoutError):
                await finish_by(deadlines.admin, self.admin.stop())

    def abandon(self) -> None:
        """End the loop; nothing more is told."""
        self._thread.stop(self._budget.control_loop_s)

    async def _on_control(self, work: Coroutine[object, object, T]) -> T:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._thread.loop))


def make_broker_publisher(settings: Settings) -> BrokerPublisher | None:
    """Return the publisher for the broker that is set, if one is."""
    url = settings.broker
    if url is None:
        return None
    publisher: Callable[..., BrokerPublisher] = broker_of(url).load_publisher()
    return publisher(url, settings.queue_name, settings.broker_ca)


def data_folder(settings: Settings) -> Path:
    """Where CUBE finds what was received."""
    return settings.files_root / "SERVICES" / "PACS"
