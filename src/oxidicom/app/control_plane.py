"""The control plane: series book-keeping, registration and observers, on a loop of their own.

Storage or brokers that hang do not delay the data plane, and a busy data plane does not delay the
control plane. The data plane puts reports into a queue, which the control plane processes at most a
hundred times a second, so that the receiving thread is not interrupted for each instance.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from oxidicom.app.deadlines import NATS_FLUSH_S, ControlPlaneDeadlines
from oxidicom.app.registrar import Registrar
from oxidicom.association_tally import AssociationTally
from oxidicom.cancellation import finish_by
from oxidicom.errors import InternalError
from oxidicom.logevents import event, trace_fields
from oxidicom.notify.lonk_publisher import LonkPublisher
from oxidicom.notify.outbox_relay import OutboxRelay
from oxidicom.observers import Observers, TraceContext
from oxidicom.ports import (
    AssociationBegan,
    AssociationEnded,
    InstanceRefused,
    InstanceStored,
    Notice,
    Report,
    SeriesCompleted,
    SeriesFailed,
    SeriesInfo,
    SeriesProgress,
)
from oxidicom.scu.count_queries import CountQueries
from oxidicom.series.tracker import SeriesTracker
from oxidicom.thread_names import NamedThread

if TYPE_CHECKING:
    # Only registration over HTTP imports this module: its HTTP library uses 2 MB.
    from oxidicom.notify.cube_eager import EagerRegistrar

logger = logging.getLogger("oxidicom.control")

REPORT_BATCH_S: Final = 0.01
"""Seconds from the first report of a batch to the processing of the batch."""

WORKER_DIED: Final = "the receiving process died"
"""How the associations that a worker had open when it died are reported to have ended."""


class ControlPlane:
    """Processes reports and passes their consequences to the registrar and to observers.

    It is created on the control plane's loop, and its methods are called there, except `report` and
    `backlog`, which any thread may use. `clock` is in seconds and is the clock of the reports.
    `lonk`, `eager` and `count_queries` are None if the settings need none.
    """

    def __init__(
        self,
        *,
        tracker: SeriesTracker,
        registrar: Registrar,
        relay: OutboxRelay,
        lonk: LonkPublisher | None,
        observers: Observers,
        trace: TraceContext,
        eager: EagerRegistrar | None = None,
        count_queries: CountQueries | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._eager = eager
        self._tracker = tracker
        self._registrar = registrar
        self._relay = relay
        self._lonk = lonk
        self._observers = observers
        self._trace = trace
        self._count_queries = count_queries
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._reports: deque[Report] = deque()
        self._processing_scheduled = False
        self._settle_timer: asyncio.TimerHandle | None = None
        self._tallies: dict[str, AssociationTally] = {}
        """The tally of each open association, by ULID, in the order in which they began."""
        self._lonk_dropped = 0
        """Number of dropped LONK messages that have been passed to observers."""

    async def start(
        self, recovered: Sequence[tuple[SeriesInfo, tuple[str, ...], frozenset[str]]]
    ) -> None:
        """Begin delivery, and let recovered series settle.

        `recovered` are the series that were open when an earlier process ended, each with the ULIDs
        of its associations and the SOP Instance UIDs of the files in its folder.
        """
        await self._relay.start()
        if self._eager is not None:
            self._eager.start()
        if self._lonk is not None:
            await self._lonk.start()
        now = self._clock()
        for series, associations, instances in recovered:
            self._tracker.recovered(series, associations, now, instances)
        self._observers.outbox_depth(self._relay.depth)
        self._schedule_completion()

    def report(self, report: Report) -> None:
        """Queue a report. Never blocks; any thread may call it."""
        self._reports.append(report)
        if not self._processing_scheduled:
            self._processing_scheduled = True
            self._loop.call_soon_threadsafe(
                self._loop.call_later, REPORT_BATCH_S, self._process_reports
            )

    @property
    def backlog(self) -> int:
        """Number of reports that have not been processed yet."""
        return len(self._reports)

    def worker_lost(
        self,
        recovered: Sequence[tuple[SeriesInfo, tuple[str, ...], frozenset[str]]],
        associations: Iterable[str],
    ) -> None:
        """End the open `associations` of a dead worker, given by ULID, and adopt its series.

        `recovered` are the series of its journal entries, in the form that `start` takes. They may
        include associations and instances that were never reported.
        """
        self._process_reports()
        now = self._clock()
        for series, carriers, instances in recovered:
            # Ended associations are left out: all their reports arrived before their end.
            lost = [name for name in carriers if not self._tracker.has_ended(name)]
            if lost:
                self._tracker.recovered(series, lost, now, instances)
        for name in associations:
            self.report(AssociationEnded(name, WORKER_DIED, 0, now, time.time_ns()))
        self._process_reports()

    async def finish(self, deadlines: ControlPlaneDeadlines) -> bool:
        """Complete and register every series, and end delivery, by the `deadlines`.

        Call it after the data plane has ended. Return whether every series is in the outbox, which
        means that this receiver has no journal entries left.
        """
        self._process_reports()
        self._pass_on(self._tracker.finish_all(self._clock()))
        if self._eager is not None:
            with suppress(TimeoutError):
                await finish_by(deadlines.eager_registration, self._eager.stop(), self._clock)
        if self._count_queries is not None:
            self._count_queries.close()
        # LONK's done follows each registration, so NATS is flushed after the relay has ended.
        registered = await self._registrar.finish(self._until(deadlines.registrations))
        left = await self._stop_relay(deadlines)
        self._registrar.close()
        if self._lonk is not None:
            await self._stop_lonk(self._lonk, deadlines)
        if left:
            event(logger, logging.WARNING, "registrations left in the outbox", registrations=left)
        timeout = self._until(deadlines.telemetry)
        with suppress(TimeoutError):
            export = asyncio.to_thread(self._observers.shutdown, timeout)
            await finish_by(deadlines.telemetry, export, self._clock)
        return registered

    def _until(self, deadline: float) -> float:
        """Return the seconds until `deadline`, or 0.0 if it has passed."""
        return max(0.0, deadline - self._clock())

    async def _stop_relay(self, deadlines: ControlPlaneDeadlines) -> int:
        """End delivery, and return the number of registrations that stay in the outbox."""
        stop = self._relay.stop(self._until(deadlines.outbox))
        try:
            return await finish_by(deadlines.publisher, stop, self._clock)
        except TimeoutError:
            return self._relay.depth

    async def _stop_lonk(self, lonk: LonkPublisher, deadlines: ControlPlaneDeadlines) -> None:
        flush = lonk.flush(min(NATS_FLUSH_S, self._until(deadlines.nats_flush)))
        try:
            flushed = await finish_by(deadlines.nats_flush, flush, self._clock)
        except TimeoutError:
            flushed = False
        if not flushed:
            event(logger, logging.WARNING, "progress messages lost at shutdown")
        with suppress(TimeoutError):
            await finish_by(deadlines.nats_close, lonk.close(), self._clock)

    # ---- reports -------------------------------------------------------------------------

    def _process_reports(self) -> None:
        # Cleared first, so that a report that arrives from here on schedules another call.
        self._processing_scheduled = False
        # Reports that arrive meanwhile wait for the next call, so that other tasks can run.
        for _ in range(len(self._reports)):
            report = self._reports.popleft()
            try:
                if type(report) is InstanceStored:  # nearly all reports are of this type
                    self._process_stored(report)
                else:
                    self._process(report)
            except Exception as error:
                event(logger, logging.ERROR, "report processing failed", exc_info=error)
        self._schedule_completion()

    def _process_stored(self, report: InstanceStored) -> None:
        tally = self._tallies.get(report.association_id)
        if tally is not None:
            tally.count_stored(report)
        if self._count_queries is not None:
            # First, because the tracker may complete the series of this report.
            self._query_count(self._count_queries, report)
        self._pass_on(self._tracker.stored(report))
        self._observers.instance_stored(report)
        if self._eager is not None:
            carrier = self._tracker.carrier_of(report.series.key)
            self._eager.stored(report.series, carrier or report.association_id)

    def _query_count(self, count_queries: CountQueries, report: InstanceStored) -> None:
        try:
            count_queries.stored(report.series, report.association_id)
        except Exception as error:  # such as a thread that cannot start; the instance still counts
            event(logger, logging.ERROR, "PACS query could not be started", exc_info=error)

    def _process(self, report: Report) -> None:
        match report:
            case InstanceRefused():
                tally = self._tallies.get(report.association_id)
                if tally is not None:
                    tally.count_refused(report)
                self._pass_on(self._tracker.refused(report))
                self._observers.instance_refused(report)
                event(
                    logger,
                    logging.WARNING,
                    "instance refused",
                    association_ulid=report.association_id,
                    status=f"{report.status:04X}H",
                    SeriesInstanceUID=report.series_instance_uid,
                    reason=report.error,
                    **self._trace_fields(report.association_id),
                )
            case AssociationBegan():
                tally = self._tallies[report.association_id] = AssociationTally(report)
                self._observers.association_began(tally)
            case AssociationEnded():
                # First, so that its series are registered even if the rest fails.
                self._pass_on(self._tracker.association_ended(report))
                self._observers.association_ended(report)
                self._log_association(report)

    def _log_association(self, ended: AssociationEnded) -> None:
        tally = self._tallies.pop(ended.association_id, None)
        if tally is None:
            raise InternalError("the end of an association was reported, but not its beginning")
        began = tally.began
        optional: dict[str, Any] = {
            name: value
            for name, value in (("worker", began.worker), ("tls", began.tls))
            if value is not None
        }
        event(
            logger,
            logging.INFO if ended.error is None else logging.WARNING,
            "association released" if ended.error is None else "association ended",
            association_ulid=ended.association_id,
            peer=began.peer_address,
            aet=began.calling_ae_title,
            stored=tally.stored,
            refused=tally.refused.total(),
            bytes=tally.bytes_stored,
            seconds=round((ended.wall_ns - began.wall_ns) / 1e9, 3),
            end=ended.error or "released",
            **optional,
            **self._trace_fields(ended.association_id),
        )

    def _trace_fields(self, association_id: str) -> dict[str, Any]:
        return trace_fields(self._trace.of_association(association_id))

    # ---- notices -------------------------------------------------------------------------

    def _pass_on(self, notices: Sequence[Notice]) -> None:
        for notice in notices:
            try:
                if type(notice) is SeriesProgress:  # nearly all notices are of this type
                    self._observers.series_progressed(notice)
                else:
                    self._dispatch(notice)
            except Exception as error:  # continue: the next notice may complete a series
                event(logger, logging.ERROR, "notification failed", exc_info=error)

    def _dispatch(self, notice: Notice) -> None:
        match notice:
            case SeriesFailed():
                self._observers.series_failed(notice)
            case SeriesCompleted():
                if self._count_queries is not None:
                    self._count_queries.completed(notice.series.key)
                self._observers.series_completed(notice)
                self._registrar.submit(notice)

    def _schedule_completion(self) -> None:
        """Set the timer for the next series to complete, and report dropped LONK messages."""
        if self._lonk is not None and self._lonk.dropped != self._lonk_dropped:
            self._observers.lonk_dropped(self._lonk.dropped - self._lonk_dropped)
            self._lonk_dropped = self._lonk.dropped
        if self._settle_timer is not None:
            self._settle_timer.cancel()
            self._settle_timer = None
        deadline = self._tracker.next_deadline()
        if deadline is not None:
            self._settle_timer = self._loop.call_later(
                max(0.0, deadline - self._clock()), self._on_deadline
            )

    def _on_deadline(self) -> None:
        self._settle_timer = None
        # Reports first: an instance that was stored before the deadline keeps its series open.
        self._process_reports()
        self._pass_on(self._tracker.due(self._clock()))
        self._schedule_completion()


class ControlThread:
    """The thread with the event loop on which the control plane runs.

    `loop_factory` None means asyncio's own loop. `loop` is set by `start`.
    """

    def __init__(self, loop_factory: Callable[[], asyncio.AbstractEventLoop] | None) -> None:
        self._loop_factory = loop_factory
        self._started: Future[None] = Future()
        self._thread = NamedThread(target=self._main, name="ox-control", daemon=True)
        self.loop: asyncio.AbstractEventLoop

    def start(self) -> None:
        """Start the thread, and return once its loop runs.

        Raises any error that prevented the loop from starting.
        """
        self._thread.start()
        self._started.result()

    def _main(self) -> None:
        try:
            with asyncio.Runner(loop_factory=self._loop_factory) as runner:
                self.loop = runner.get_loop()
                runner.run(self._serve())
        except BaseException as error:
            if self._started.done():
                raise
            self._started.set_exception(error)

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        self._started.set_result(None)
        await self._stop.wait()

    def stop(self, timeout: float) -> None:
        """End the loop and its thread; return after `timeout` seconds even if they still run."""
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout)
