"""Registers complete series: counts instances, writes outbox entries, removes journal entries, and
notifies observers (decisions 28 to 36)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar
from weakref import WeakValueDictionary

from oxidicom.disk_executor import DiskExecutor
from oxidicom.logevents import describe, event, trace_fields
from oxidicom.notify.cube_fields import fit
from oxidicom.notify.outbox_relay import OutboxRelay
from oxidicom.observers import (
    Observers,
    RegistrationOutcome,
    SeriesCounted,
    SeriesRegistered,
    TraceContext,
)
from oxidicom.ports import Registration, SeriesCompleted, SeriesInfo, SeriesKey
from oxidicom.series.journal import Journal
from oxidicom.store.instance_files import count_instances

logger = logging.getLogger("oxidicom.series")

P = ParamSpec("P")
R = TypeVar("R")

MAX_CONFIRMATION_WAIT_S: Final = 2.0
"""Seconds to wait for the confirmation of a registration before LONK's done (decision 36)."""

_REASONS: Final = {
    RegistrationOutcome.CONFIRMED: None,
    RegistrationOutcome.WAITING: "waits in the outbox",
    RegistrationOutcome.REFUSED: "refused, kept in the outbox's folder",
    RegistrationOutcome.EMPTY: "no instance in the series' folder",
}
"""Why a registration is not confirmed, for the log and for observers; None if it is."""


class Registrar:
    """Registers complete series in the outbox. Used on the control plane's loop.

    `completed` is called on that loop once the outbox entry of a series, which an empty series does
    not get, is on disk and its journal entries are removed. `tidy` is called on a thread before the
    files of a series are counted. `expected`, if given, is awaited for the number of instances that
    the PACS holds, or None, which the registration then contains.
    """

    def __init__(
        self,
        *,
        files_root: Path,
        journal: Journal,
        relay: OutboxRelay,
        observers: Observers,
        trace: TraceContext,
        completed: Callable[[SeriesCompleted], None],
        tidy: Callable[[SeriesInfo], None] | None = None,
        expected: Callable[[SeriesKey], Awaitable[int | None]] | None = None,
        has_broker: bool = True,
    ) -> None:
        self._files_root = files_root
        self._journal = journal
        self._relay = relay
        self._observers = observers
        self._trace = trace
        self._completed = completed
        self._tidy = tidy
        self._expected = expected
        self._has_broker = has_broker
        self._disk = DiskExecutor("ox-registrar", 2)
        self._tasks: set[asyncio.Task[None]] = set()
        self._locks: WeakValueDictionary[SeriesKey, asyncio.Lock] = WeakValueDictionary()

    def submit(self, series: SeriesCompleted) -> None:
        """Begin to register the series; return at once."""
        task = asyncio.create_task(self._register(series))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def finish(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds for submitted series; return whether all are done."""
        if not self._tasks:
            return True
        _, pending = await asyncio.wait(self._tasks, timeout=timeout)
        return not pending

    def close(self) -> None:
        """Cancel registrations in progress; the next start recovers them from the journal."""
        for task in self._tasks:
            task.cancel()
        self._disk.close()

    async def _register(self, completed: SeriesCompleted) -> None:
        began_ns = time.time_ns()
        traceparent = self._trace.begin_registration(completed, began_ns)
        try:
            await self._submit_to_outbox(completed, began_ns, traceparent)
        except Exception as error:
            self._observe(completed, 0, began_ns, RegistrationOutcome.FAILED, describe(error))
            event(
                logger,
                logging.ERROR,
                "series registration failed; retried from the journal at the next start",
                exc_info=error,
                SeriesInstanceUID=completed.series.series_instance_uid,
                **trace_fields(traceparent),
            )

    async def _submit_to_outbox(
        self, completed: SeriesCompleted, began_ns: int, traceparent: str | None
    ) -> None:
        series = completed.series
        # If a series completes twice, the registrations keep that order: an older count must not
        # follow a newer one.
        async with self._locks.setdefault(series.key, asyncio.Lock()):
            if self._tidy is not None:
                await self._on_disk(self._tidy, series)
            ndicom = await self._on_disk(count_instances, self._files_root, series)
            self._observers.series_counted(SeriesCounted(series, completed.received, ndicom))
            confirmation = None
            if ndicom and completed.expected is None and self._expected is not None:
                completed = completed._replace(expected=await self._expected(series.key))
            if ndicom:
                confirmation = await self._relay.submit(
                    _registration(completed, ndicom, traceparent)
                )
                self._observers.outbox_depth(self._relay.depth)
            await self._on_disk(self._journal.remove, series.key, completed.associations)
            self._completed(completed)
        outcome = (
            RegistrationOutcome.EMPTY if confirmation is None else await self._outcome(confirmation)
        )
        self._observe(completed, ndicom, began_ns, outcome, _REASONS[outcome])
        self._log(completed, ndicom, outcome, traceparent)

    async def _outcome(self, confirmation: asyncio.Future[bool]) -> RegistrationOutcome:
        """Return the outcome, or WAITING if it is unknown after MAX_CONFIRMATION_WAIT_S seconds."""
        await asyncio.wait([confirmation], timeout=MAX_CONFIRMATION_WAIT_S)
        self._observers.outbox_depth(self._relay.depth)
        # Cancelled, because the relay would otherwise keep the future until delivery, perhaps days.
        if confirmation.cancel() or confirmation.cancelled() or not self._has_broker:
            return RegistrationOutcome.WAITING
        if confirmation.result():
            return RegistrationOutcome.CONFIRMED
        return RegistrationOutcome.REFUSED

    def _log(
        self,
        completed: SeriesCompleted,
        ndicom: int,
        outcome: RegistrationOutcome,
        traceparent: str | None,
    ) -> None:
        series = completed.series
        count_fields = _count_fields(completed.expected, ndicom)
        confirmed = outcome is RegistrationOutcome.CONFIRMED or not self._has_broker
        as_expected = "short" not in count_fields and confirmed
        event(
            logger,
            logging.INFO if as_expected else logging.WARNING,
            "series complete" if ndicom else "series has no instances; not registered",
            pacs_name=series.pacs_name,
            SeriesInstanceUID=series.series_instance_uid,
            ndicom=ndicom,
            received=completed.received,
            **count_fields,
            associations=len(completed.associations),
            registration=_REASONS[outcome] or "confirmed",
            **trace_fields(traceparent),
        )

    def _observe(
        self,
        completed: SeriesCompleted,
        ndicom: int,
        began_ns: int,
        outcome: RegistrationOutcome,
        error: str | None,
    ) -> None:
        self._observers.series_registered(
            SeriesRegistered(
                completed.series,
                completed.associations,
                completed.received,
                ndicom,
                began_ns,
                time.time_ns(),
                outcome,
                error,
                completed.expected,
            )
        )

    async def _on_disk(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run `call` on a thread, and repeat it while it raises OSError; return what it returns."""
        return await self._disk.run_until_done(_log_retry, call, *args, **kwargs)


def _log_retry(error: OSError) -> None:
    event(logger, logging.ERROR, "storage call failed; retrying", error=error)


def _registration(completed: SeriesCompleted, ndicom: int, traceparent: str | None) -> Registration:
    return fit(
        Registration(
            completed.series,
            ndicom,
            completed.attempted,
            completed.expected,
            next(iter(completed.associations), None),
            traceparent,
        )
    )


def _count_fields(expected: int | None, ndicom: int) -> dict[str, Any]:
    """Return log fields: the expected number of instances, and how many are missing.

    Without an expected number there are no fields.
    """
    if expected is None:
        return {}
    if ndicom >= expected:
        return {"expected": expected}
    return {"expected": expected, "short": expected - ndicom}
