"""The control plane: book-keeping and notifications, on a loop and a thread of their own.

Whatever the storage or a broker does, reception goes on, and whatever reception does, this
answers. The two talk by one queue of records, looked at a hundred times a second at most, so that
the receiving thread is not interrupted for each instance.
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

from oxidicom.app.deadlines import NATS_FLUSH_S, ControlPlaneDeadlines, finish_by
from oxidicom.app.registrar import Registrar
from oxidicom.association_tally import AssociationTally
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
    from oxidicom.notify.cube_eager import (
        EagerRegistrar,  # with a library of 2 MB, for those who need it
    )

logger = logging.getLogger("oxidicom.control")

REPORT_BATCH_S: Final = 0.01
"""Seconds for which reports are batched before they are processed."""

WORKER_DIED: Final = "the receiving process died"


class ControlPlane:
    """Made and run on the control plane's own loop; `report` may be called from any thread."""

    def __init__(
        self,
        *,
        tracker: SeriesTracker,
        registrar: Registrar,
        courier: OutboxRelay,
        lonk: LonkPublisher | None,
        observers: Observers,
        trace: TraceContext,
        early: EagerRegistrar | None = None,
        inquiries: CountQueries | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._early = early
        self._tracker = tracker
        self._registrar = registrar
        self._courier = courier
        self._lonk = lonk
        self._observers = observers
        self._trace = trace
        self._inquiries = inquiries
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._reports: deque[Report] = deque()
        self._signalled = False
        self._timer: asyncio.TimerHandle | None = None
        self._tallies: dict[str, AssociationTally] = {}
        self._lonk_dropped = 0

    async def start(
        self, recovered: Sequence[tuple[SeriesInfo, tuple[str, ...], frozenset[str]]]
    ) -> None:
        await self._courier.start()
        if self._early is not None:
            self._early.start()
        if self._lonk is not None:
            await self._lonk.start()
        now = self._clock()
        for series, associations, instances in recovered:
            self._tracker.recovered(series, associations, now, instances)
        self._observers.outbox_depth(self._courier.depth)
        self._arm()

    def report(self, report: Report) -> None:
        self._reports.append(report)
        if not self._signalled:
            self._signalled = True
            self._loop.call_soon_threadsafe(
                self._loop.call_later, REPORT_BATCH_S, self._take_reports
            )

    @property
    def backlog(self) -> int:
        """Reports that nobody has looked at yet."""
        return len(self._reports)

    def worker_lost(
        self,
        recovered: Sequence[tuple[SeriesInfo, tuple[str, ...], frozenset[str]]],
        associations: Iterable[str],
    ) -> None:
        """A worker died with these associations open; `recovered` is what the journal has of it,
        and may know of associations and instances that were never reported."""
        self._take_reports()
        now = self._clock()
        for series, carriers, instances in recovered:
            # Of an association whose end was reported all else was, too.
            lost = [name for name in carriers if not self._tracker.has_ended(name)]
            if lost:
                self._tracker.recovered(series, lost, now, instances)
        for name in associations:
            self.report(AssociationEnded(name, WORKER_DIED, 0, now, time.time_ns()))
        self._take_reports()

    async def finish(self, deadlines: ControlPlaneDeadlines) -> bool:
        """Complete every series, register and flush; the data plane has ended.

        Returns whether every series is in the outbox, so that the journal has none of ours.
        """
        self._take_reports()
        self._act(self._tracker.finish_all(self._clock()))
        if self._early is not None:
            with suppress(TimeoutError):
                await finish_by(deadlines.eager_registration, self._early.stop(), self._clock)
        if self._inquiries is not None:
            self._inquiries.close()
        # Done follows the confirmation, so that progress is complete once these are.
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
        """Return the seconds until then."""
        return max(0.0, deadline - self._clock())

    async def _stop_relay(self, deadlines: ControlPlaneDeadlines) -> int:
        """Return the number of registrations that stay in the outbox."""
        stop = self._courier.stop(self._until(deadlines.outbox))
        try:
            return await finish_by(deadlines.publisher, stop, self._clock)
        except TimeoutError:
            return self._courier.depth

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

    def _take_reports(self) -> None:
        # Cleared first: what is reported from here on asks for another look.
        self._signalled = False
        # Not all that come meanwhile: brokers on this loop want their turn, too.
        for _ in range(len(self._reports)):
            report = self._reports.popleft()
            try:
                if type(report) is InstanceStored:  # nearly always
                    self._take_stored(report)
                else:
                    self._take(report)
            except Exception as error:
                event(logger, logging.ERROR, "report processing failed", exc_info=error)
        self._arm()

    def _take_stored(self, report: InstanceStored) -> None:
        tally = self._tallies.get(report.association_id)
        if tally is not None:
            tally.count_stored(report)
        if self._inquiries is not None:
            # Before it is counted, which may complete its series.
            self._ask(self._inquiries, report)
        self._act(self._tracker.stored(report))
        self._observers.instance_stored(report)
        if self._early is not None:
            carrier = self._tracker.carrier_of(report.series.key)
            self._early.stored(report.series, carrier or report.association_id)

    def _ask(self, inquiries: CountQueries, report: InstanceStored) -> None:
        try:
            inquiries.stored(report.series, report.association_id)
        except Exception as error:  # no thread to be had, perhaps; the instance counts all the same
            event(logger, logging.ERROR, "PACS query could not be started", exc_info=error)

    def _take(self, report: Report) -> None:
        match report:
            case InstanceRefused():
                tally = self._tallies.get(report.association_id)
                if tally is not None:
                    tally.count_refused(report)
                self._act(self._tracker.refused(report))
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
                # First of all: whatever is wrong with the rest, its series are registered.
                self._act(self._tracker.association_ended(report))
                self._observers.association_ended(report)
                self._tell_association(report)

    def _tell_association(self, ended: AssociationEnded) -> None:
        tally = self._tallies.pop(ended.association_id, None)
        if tally is None:
            raise InternalError("an association ended that never began")
        began = tally.began
        where: dict[str, Any] = {
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
            **where,
            **self._trace_fields(ended.association_id),
        )

    def _trace_fields(self, association_id: str) -> dict[str, Any]:
        return trace_fields(self._trace.of_association(association_id))

    # ---- notices -------------------------------------------------------------------------

    def _act(self, notices: Sequence[Notice]) -> None:
        for notice in notices:
            try:
                if type(notice) is SeriesProgress:  # nearly always
                    self._observers.series_progressed(notice)
                else:
                    self._pass_on(notice)
            except Exception as error:  # the next notice may complete a series
                event(logger, logging.ERROR, "notification failed", exc_info=error)

    def _pass_on(self, notice: Notice) -> None:
        match notice:
            case SeriesFailed():
                self._observers.series_failed(notice)
            case SeriesCompleted():
                if self._inquiries is not None:
                    self._inquiries.completed(notice.series.key)
                self._observers.series_completed(notice)
                self._registrar.submit(notice)

    def _arm(self) -> None:
        """Look again when the next series may have settled."""
        if self._lonk is not None and self._lonk.dropped != self._lonk_dropped:
            self._observers.lonk_dropped(self._lonk.dropped - self._lonk_dropped)
            self._lonk_dropped = self._lonk.dropped
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._tracker.next_deadline()
        if deadline is not None:
            self._timer = self._loop.call_later(
                max(0.0, deadline - self._clock()), self._on_deadline
            )

    def _on_deadline(self) -> None:
        self._timer = None
        # Reports first: an instance that came in time keeps its series open.
        self._take_reports()
        self._act(self._tracker.due(self._clock()))
        self._arm()


class ControlThread:
    """The thread with the control plane's loop; `make` builds the plane on it."""

    def __init__(self, loop_factory: Callable[[], asyncio.AbstractEventLoop] | None) -> None:
        self._loop_factory = loop_factory
        self._started: Future[None] = Future()
        self._thread = NamedThread(target=self._main, name="ox-control", daemon=True)
        self.loop: asyncio.AbstractEventLoop

    def start(self) -> None:
        """Raises what kept the loop from starting."""
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
        """End the loop; what hangs in it for more than `timeout` seconds is left behind."""
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout)
