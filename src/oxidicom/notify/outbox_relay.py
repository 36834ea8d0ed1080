"""Delivers every registration from the outbox to the publisher, however long that is unreachable.

Each entry is delivered at least once. Two entries of one series are never in flight at once, and
an older count is never delivered after a newer one (decisions 21, 32, 35). Only names are kept in
memory: an entry is read when it is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, ParamSpec, TypeVar

from oxidicom.backoff import Backoff
from oxidicom.cancellation import end_tasks, run_within
from oxidicom.disk_executor import DiskExecutor
from oxidicom.logevents import describe_client_error, event, trace_fields
from oxidicom.notify.outbox_scanner import OutboxScanner
from oxidicom.notify.outbox_store import Outbox, OutboxEntry, new_entry
from oxidicom.notify.publisher import Publisher, RegistrationRefusedError
from oxidicom.ports import Registration, SeriesKey

DELIVERY_FIRST_RETRY_S: Final = 1.0
DELIVERY_GREATEST_RETRY_S: Final = 30.0
"""Seconds to the next delivery after a failure; doubled from the first to the greatest (decision
35)."""

MAX_BROKER_DELIVERIES: Final = 8
"""Greatest number of entries in flight to a broker at once."""

RELAY_CLOSE_TIMEOUT_S: Final = 3.0
"""Seconds for cancelled deliveries to end, and as many again for the publisher to close."""

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger("oxidicom.outbox")


class _Unwritten(NamedTuple):
    """A submitted registration that is not on disk yet."""

    entry: OutboxEntry
    durable: asyncio.Future[None]
    """Done once the entry is on disk; has an exception if it cannot be written."""
    outcome: asyncio.Future[bool]
    """The future that `submit` returns."""


class OutboxRelay:
    """Writes registrations into the outbox and delivers its entries.

    With `publisher` None, registrations stay in the outbox until a later run has a publisher. At
    most `max_in_flight` entries are in flight at once, and only one while deliveries fail.
    `on_outcome` is called with the series of each delivered entry and None, and with the series of
    each refused entry and the reason.
    `clock` and `sleep` are in seconds; `scan_sleep` makes the outbox scanner's pauses.
    """

    def __init__(
        self,
        outbox: Outbox,
        publisher: Publisher | None,
        *,
        max_in_flight: int = MAX_BROKER_DELIVERIES,
        on_outcome: Callable[[SeriesKey, str | None], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        scan_sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._outbox = outbox
        self._publisher = publisher
        self._max_in_flight = max_in_flight
        self._on_outcome = on_outcome
        self._clock = clock
        self._sleep = sleep
        # One thread, so that writes keep their order.
        self._disk = DiskExecutor("ox-outbox", sleep=sleep)
        self._scanner = OutboxScanner(
            outbox, self._is_known, self._adopt, self._disk.run, sleep=scan_sleep
        )

        self._unwritten: deque[_Unwritten] = deque()
        self._queued: dict[str, None] = {}
        """Names of entries to deliver, the next one first."""
        self._in_flight: dict[str, asyncio.Task[None]] = {}
        """The task that delivers each entry in flight, by name of the entry."""
        self._unresolved: dict[str, list[tuple[str, asyncio.Future[bool]]]] = {}
        """Task ids and futures of submissions without an outcome, in order, by entry name."""
        self._attempts: dict[str, int] = {}
        """Number of delivery attempts of each entry that is still in the outbox, by name."""

        self._write_wanted = asyncio.Event()
        self._delivery_wanted = asyncio.Event()
        self._idle = asyncio.Event()
        self._loaded = False
        self._backoff = Backoff(DELIVERY_FIRST_RETRY_S, DELIVERY_GREATEST_RETRY_S)
        self.last_error: str | None = None
        """Why the latest delivery failed; None before the first failure and after a success."""
        self._retry_at = 0.0
        """Time of `clock` before which nothing is delivered after a failure."""
        self._attempted_at = 0.0
        """Time of `clock` at which the latest delivery began."""
        self._failed_at = 0.0
        """Time of `clock` of the latest failure."""
        self._probe: str | None = None
        """Name of an entry to deliver before all others, to test whether deliveries fail."""
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to write and to deliver; entries of earlier runs come first, oldest first.

        Does not wait for the disk or the publisher.
        """
        self._tasks.append(asyncio.create_task(self._write_entries(), name="outbox writer"))
        if self._publisher is not None:
            self._tasks.append(asyncio.create_task(self._deliver_entries(), name="outbox relay"))
            self._tasks.append(asyncio.create_task(self._scanner.run(), name="outbox scanner"))

    async def submit(self, registration: Registration) -> asyncio.Future[bool]:
        """Write the registration to disk, and return a future of its outcome.

        The write is repeated while it raises OSError. The future's result is True once the
        publisher has accepted the registration or a newer one of its series, and False once it was
        refused or, without a publisher, is on disk. If the future is cancelled, the delivery
        continues. Raises RuntimeError after `stop`, and ValueError if the entry would be too long.
        """
        if self._stopping:
            raise RuntimeError("a registration was submitted after the outbox relay was stopped")
        loop = asyncio.get_running_loop()
        write = _Unwritten(new_entry(registration), loop.create_future(), loop.create_future())
        self._unwritten.append(write)
        self._idle.clear()
        self._write_wanted.set()
        # Shielded, so that the write continues if the caller is cancelled.
        await asyncio.shield(write.durable)
        return write.outcome

    @property
    def depth(self) -> int:
        """Number of registrations that this run has yet to write or deliver."""
        in_flight = sum(name not in self._queued for name in self._in_flight)
        return len(self._unwritten) + len(self._queued) + in_flight

    async def stop(self, flush_timeout: float) -> int:
        """Continue for at most `flush_timeout` seconds, then end; return how many entries stay.

        Afterwards deliveries in flight are cancelled and the publisher is closed, each within
        RELAY_CLOSE_TIMEOUT_S.
        """
        self._stopping = True
        self._backoff.reset()
        self._retry_at = 0.0
        self._delivery_wanted.set()
        self._note_idle()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(flush_timeout):
                await self._idle.wait()
        await end_tasks([*self._tasks, *self._in_flight.values()], RELAY_CLOSE_TIMEOUT_S)
        self._tasks.clear()
        for write in self._unwritten:
            write.durable.cancel()
        self._disk.close()
        if self._publisher is not None:
            await run_within(self._publisher.close(), RELAY_CLOSE_TIMEOUT_S)
        return self.depth

    # ---- to the disk ------------------------------------------------------------------------

    async def _write_entries(self) -> None:
        if (
            self._publisher is None
        ):  # otherwise `_deliver_entries` lists the outbox, and so removes temporary files
            with contextlib.suppress(OSError):
                await self._disk.run(self._outbox.sweep)
        while True:
            await self._write_wanted.wait()
            self._write_wanted.clear()
            while self._unwritten:
                write = self._unwritten[0]
                try:
                    await self._until_done(self._outbox.put, write.entry)
                except Exception as error:
                    # An OSError would have been retried: this entry can never be written.
                    if not write.durable.done():
                        write.durable.set_exception(error)
                else:
                    self._on_written(write)
                finally:
                    self._unwritten.popleft()
                    self._note_idle()

    def _on_written(self, write: _Unwritten) -> None:
        name = write.entry.name
        if self._publisher is None:
            write.outcome.set_result(False)
        else:
            self._unresolved.setdefault(name, []).append((write.entry.task_id, write.outcome))
            write.outcome.add_done_callback(lambda _: self._forget(name, write.entry.task_id))
            self._queued.setdefault(name)
            if self._backoff:
                # The new entry is tried before the delay has passed, because the failures may be
                # specific to another entry.
                self._probe = name
                self._retry_at = min(self._retry_at, self._attempted_at + DELIVERY_FIRST_RETRY_S)
            self._delivery_wanted.set()
        if not write.durable.done():
            write.durable.set_result(None)

    # ---- to the broker ----------------------------------------------------------------------

    async def _deliver_entries(self) -> None:
        earlier = await self._until_done(self._outbox.names)
        self._queued = dict.fromkeys(earlier) | self._queued
        self._loaded = True
        while True:
            self._delivery_wanted.clear()
            self._note_idle()
            delay = self._retry_at - self._clock() if self._backoff else 0.0
            if delay <= 0:
                while (name := self._next_name()) is not None:
                    self._queued.pop(name)
                    self._in_flight[name] = asyncio.create_task(self._deliver(name))
                await self._delivery_wanted.wait()
            else:
                await self._wait_for_work(delay)

    def _next_name(self) -> str | None:
        if len(self._in_flight) >= (1 if self._backoff else self._max_in_flight):
            return None
        probe, self._probe = self._probe, None
        if probe in self._queued and probe not in self._in_flight:
            return probe
        return next((name for name in self._queued if name not in self._in_flight), None)

    async def _deliver(self, name: str) -> None:
        assert self._publisher is not None
        began = self._attempted_at = self._clock()
        try:
            entry = await self._disk.run(self._outbox.read, name)
            if entry is None:
                self._attempts.pop(name, None)
                return
            attempts = self._attempts[name] = self._attempts.get(name, 0) + 1
            try:
                await self._publisher.publish(entry.registration, entry.task_id)
            except RegistrationRefusedError as refusal:
                _log_refused(entry, refusal)
                removed = await self._until_done(self._outbox.refuse, entry, str(refusal), attempts)
                self._resolve(entry, str(refusal))
            else:
                removed = await self._until_done(self._outbox.remove, entry)
                self._resolve(entry, None)
            if not removed:
                # The file now has a newer entry of the series, perhaps of another receiver.
                self._queued.setdefault(name)
        except asyncio.CancelledError:
            self._queued.setdefault(name)
            raise
        except Exception as error:
            self._on_failed(name, error, began)
        finally:
            del self._in_flight[name]
            self._delivery_wanted.set()

    def _resolve(self, entry: OutboxEntry, refusal: str | None) -> None:
        if self._backoff:
            event(logger, logging.INFO, "registration delivery resumed")
        self._backoff.reset()
        self.last_error = None
        if self._on_outcome is not None:
            self._on_outcome(entry.registration.series.key, refusal)
        self._attempts.pop(entry.name, None)
        unresolved = self._unresolved.get(entry.name, [])
        ids = [task_id for task_id, _ in unresolved]
        # On disk, this entry has replaced those that were submitted before it.
        for _, outcome in unresolved[: ids.index(entry.task_id) + 1 if entry.task_id in ids else 0]:
            if not outcome.done():
                outcome.set_result(refusal is None)

    def _on_failed(self, name: str, error: Exception, began: float) -> None:
        # Queued last, so that an entry at which the broker fails does not block others.
        self._queued.setdefault(name)
        self.last_error = describe_client_error(error)
        if not self._backoff:
            event(
                logger,
                logging.WARNING,
                "registration delivery failed; retrying",
                reason=self.last_error,
            )
        # A delivery that began before the last failure probably failed for the same reason.
        if not self._backoff or began > self._failed_at:
            self._backoff.failed()
        self._failed_at = self._clock()
        self._retry_at = self._failed_at + self._backoff.delay

    def _forget(self, name: str, task_id: str) -> None:
        remaining = [pair for pair in self._unresolved.get(name, []) if pair[0] != task_id]
        if remaining:
            self._unresolved[name] = remaining
        else:
            self._unresolved.pop(name, None)

    def _note_idle(self) -> None:
        delivered = self._publisher is None or (
            self._loaded and not self._queued and not self._in_flight
        )
        if delivered and not self._unwritten:
            self._idle.set()
        else:
            self._idle.clear()

    # ---- entries of others ------------------------------------------------------------------

    def _is_known(self, name: str) -> bool:
        """Return whether this run delivers the entry. Called on the disk thread."""
        return name in self._queued or name in self._in_flight

    def _adopt(self, names: list[str]) -> None:
        if self._stopping:
            return
        # Queued last, so that two receivers with the same list do not deliver it in the same order.
        for name in names:
            self._queued.setdefault(name)
        event(logger, logging.INFO, "registrations found in the outbox", registrations=len(names))
        self._delivery_wanted.set()

    # ---- waiting ----------------------------------------------------------------------------

    async def _until_done(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._disk.run_until_done(_log_unusable, call, *args, **kwargs)

    async def _wait_for_work(self, seconds: float) -> None:
        """Wait until an entry is queued or a delivery ends, for at most `seconds`."""
        waits = [
            asyncio.ensure_future(self._sleep(seconds)),
            asyncio.ensure_future(self._delivery_wanted.wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


def _log_unusable(error: OSError) -> None:
    event(logger, logging.ERROR, "outbox unusable; retrying", error=error)


def _log_refused(entry: OutboxEntry, refusal: RegistrationRefusedError) -> None:
    registration = entry.registration
    event(
        logger,
        logging.ERROR,
        "registration refused; see `oxidicom outbox show`",
        entry=entry.name[:12],
        pacs_name=registration.series.pacs_name,
        SeriesInstanceUID=registration.series.series_instance_uid,
        reason=str(refusal),
        **trace_fields(registration.traceparent),
    )
