"""Brings every registration from the outbox to the broker, however long the broker is away.

At least once; never two of one series at once; never an older count after a newer one
(decisions 21, 32, 35). Only names are kept in memory: an entry is read when it is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple, ParamSpec, Protocol, TypeVar

from oxidicom.errors import OxidicomError
from oxidicom.logevents import event, reason_of, trace_fields
from oxidicom.notify.outbox_scanner import OutboxScanner, Visit
from oxidicom.notify.outbox_store import Outbox, OutboxEntry, new_entry
from oxidicom.ports import Registration, SeriesKey
from oxidicom.thread_names import pool_thread_namer

FIRST_RETRY: Final = 1.0
LAST_RETRY: Final = 30.0
"""Seconds between attempts while they fail; doubled from the first to the last (decision 35)."""

IN_FLIGHT: Final = 8
"""Entries under way at once, to a broker."""

FIRST_DISK_RETRY: Final = 0.1
LAST_DISK_RETRY: Final = 5.0

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger("oxidicom.outbox")


class RegistrationRefused(OxidicomError):
    """Raised by a publisher: this registration will never be accepted, other ones may be."""


class Publisher(Protocol):
    async def publish(self, registration: Registration, task_id: str) -> None:
        """Return once the broker has taken responsibility; raise RegistrationRefused if it never
        will, anything else to be called again later with the same `task_id`."""

    async def close(self) -> None: ...


class _Unwritten(NamedTuple):
    entry: OutboxEntry
    durable: asyncio.Future[None]
    settled: asyncio.Future[bool]


class OutboxRelay:
    """`publisher` None: registrations stay in the outbox until a later run has one.

    `clock` and `sleep` are in seconds; `glance` sleeps between looks at the outbox's folder. At
    most `in_flight` entries are under way at once; only one while attempts fail. `settled` is told
    of each that leaves the outbox, and why it was refused if it was.
    """

    def __init__(
        self,
        outbox: Outbox,
        publisher: Publisher | None,
        *,
        in_flight: int = IN_FLIGHT,
        settled: Callable[[SeriesKey, str | None], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        glance: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._outbox = outbox
        self._publisher = publisher
        self._in_flight = in_flight
        self._settled = settled
        self._clock = clock
        self._sleep = sleep
        self._rounds = OutboxScanner(outbox, self._knows, self._adopt, self._visit, sleep=glance)
        # Not the loop's own threads: a hung resolver must not keep entries from the disk, nor hung
        # storage the resolver from a thread. One thread, so that writes keep their order.
        self._disk_thread = ThreadPoolExecutor(1, initializer=pool_thread_namer("ox-outbox"))

        self._unwritten: deque[_Unwritten] = deque()
        self._waiting: dict[str, None] = {}
        """Names of entries to deliver, the next one first."""
        self._flying: dict[str, asyncio.Task[None]] = {}
        self._unsettled: dict[str, list[tuple[str, asyncio.Future[bool]]]] = {}
        """By name: task ids and futures, in order of submission."""
        self._attempts: dict[str, int] = {}
        """By name, of those that were tried and are not settled."""

        self._write_wanted = asyncio.Event()
        self._delivery_wanted = asyncio.Event()
        self._idle = asyncio.Event()
        self._loaded = False
        self._retry_delay = 0.0
        """0 while deliveries succeed."""
        self.trouble: str | None = None
        """Why the latest delivery failed, while they fail."""
        self._retry_at = 0.0
        self._attempted_at = 0.0
        self._failed_at = 0.0
        self._probe: str | None = None
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Entries of earlier runs are delivered, oldest first. Never fails, never waits."""
        self._tasks.append(asyncio.create_task(self._write_entries(), name="outbox writer"))
        if self._publisher is not None:
            self._tasks.append(asyncio.create_task(self._deliver_entries(), name="courier"))
            self._tasks.append(asyncio.create_task(self._rounds.run(), name="outbox rounds"))

    async def submit(self, registration: Registration) -> asyncio.Future[bool]:
        """Return once the registration is on disk, which is tried until it can be.

        The future is done when nothing more will happen to the registration: the broker confirmed
        it or a newer one of its series (True), or refused it for ever; with no publisher, when it
        is on disk (False). Cancel it to stop waiting; the delivery goes on.
        """
        if self._stopping:
            raise RuntimeError("submit after stop")
        loop = asyncio.get_running_loop()
        write = _Unwritten(new_entry(registration), loop.create_future(), loop.create_future())
        self._unwritten.append(write)
        self._idle.clear()
        self._write_wanted.set()
        # The write itself outlives a caller that gives up.
        await asyncio.shield(write.durable)
        return write.settled

    @property
    def depth(self) -> int:
        """Registrations that no broker has confirmed, as far as this run knows."""
        flying = sum(name not in self._waiting for name in self._flying)
        return len(self._unwritten) + len(self._waiting) + flying

    async def stop(self, flush_timeout: float) -> int:
        """Deliver for at most `flush_timeout` seconds more; return how many entries stay."""
        self._stopping = True
        self._retry_delay = self._retry_at = 0.0
        self._delivery_wanted.set()
        self._note_idle()
        try:
            async with asyncio.timeout(flush_timeout):
                await self._idle.wait()
        except TimeoutError:
            event(
                logger,
                logging.WARNING,
                "registrations left in the outbox until the next start",
                registrations=self.depth,
            )
        tasks = [*self._tasks, *self._flying.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()
        for write in self._unwritten:
            write.durable.cancel()
        self._disk_thread.shutdown(wait=False, cancel_futures=True)
        if self._publisher is not None:
            await self._publisher.close()
        return self.depth

    # ---- to the disk ------------------------------------------------------------------------

    async def _write_entries(self) -> None:
        if self._publisher is None:  # who has one lists the outbox, which sweeps it
            with contextlib.suppress(OSError):
                await self._on_disk(self._outbox.sweep)
        while True:
            await self._write_wanted.wait()
            self._write_wanted.clear()
            while self._unwritten:
                write = self._unwritten[0]
                try:
                    await self._until_done(self._outbox.put, write.entry)
                except Exception as error:
                    # Not the disk's fault (that is retried): this one can never be written.
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
            write.settled.set_result(False)
        else:
            self._unsettled.setdefault(name, []).append((write.entry.task_id, write.settled))
            write.settled.add_done_callback(lambda _: self._forget(name, write.entry.task_id))
            self._waiting.setdefault(name)
            if self._retry_delay:
                # A sign of life is worth a try before its time, by an entry that may not be what
                # the broker chokes on.
                self._probe = name
                self._retry_at = min(self._retry_at, self._attempted_at + FIRST_RETRY)
            self._delivery_wanted.set()
        if not write.durable.done():
            write.durable.set_result(None)

    # ---- to the broker ----------------------------------------------------------------------

    async def _deliver_entries(self) -> None:
        earlier = await self._until_done(self._outbox.names)
        self._waiting = dict.fromkeys(earlier) | self._waiting
        self._loaded = True
        while True:
            self._delivery_wanted.clear()
            self._note_idle()
            delay = self._retry_at - self._clock() if self._retry_delay else 0.0
            if delay <= 0:
                while (name := self._next()) is not None:
                    self._waiting.pop(name)
                    self._flying[name] = asyncio.create_task(self._deliver(name))
                await self._delivery_wanted.wait()
            else:
                await self._pause(delay)

    def _next(self) -> str | None:
        if len(self._flying) >= (1 if self._retry_delay else self._in_flight):
            return None
        probe, self._probe = self._probe, None
        if probe in self._waiting and probe not in self._flying:
            return probe
        return next((name for name in self._waiting if name not in self._flying), None)

    async def _deliver(self, name: str) -> None:
        assert self._publisher is not None
        began = self._attempted_at = self._clock()
        try:
            entry = await self._on_disk(self._outbox.read, name)
            if entry is None:
                self._attempts.pop(name, None)
                return
            attempts = self._attempts[name] = self._attempts.get(name, 0) + 1
            try:
                await self._publisher.publish(entry.registration, entry.task_id)
            except RegistrationRefused as refusal:
                _tell_refused(entry, refusal)
                held = await self._until_done(self._outbox.refuse, entry, str(refusal), attempts)
                self._on_settled(entry, str(refusal))
            else:
                held = await self._until_done(self._outbox.remove, entry)
                self._on_settled(entry, None)
            if not held:
                # A newer one, perhaps of another receiver, stands there.
                self._waiting.setdefault(name)
        except asyncio.CancelledError:
            self._waiting.setdefault(name)
            raise
        except Exception as error:
            self._on_failed(name, error, began)
        finally:
            del self._flying[name]
            self._delivery_wanted.set()

    def _on_settled(self, entry: OutboxEntry, refusal: str | None) -> None:
        if self._retry_delay:
            event(logger, logging.INFO, "registration delivery resumed")
        self._retry_delay = 0.0
        self.trouble = None
        if self._settled is not None:
            self._settled(entry.registration.series.key, refusal)
        self._attempts.pop(entry.name, None)
        unsettled = self._unsettled.get(entry.name, [])
        ids = [task_id for task_id, _ in unsettled]
        # Those before it were replaced by it.
        for _, settled in unsettled[: ids.index(entry.task_id) + 1 if entry.task_id in ids else 0]:
            if not settled.done():
                settled.set_result(refusal is None)

    def _on_failed(self, name: str, error: Exception, began: float) -> None:
        # To the back, so that one which the broker chokes on does not hold up the others.
        self._waiting.setdefault(name)
        self.trouble = reason_of(error)
        if not self._retry_delay:
            event(
                logger,
                logging.WARNING,
                "registration delivery failed; retrying",
                reason=reason_of(error),
            )
            self._retry_delay = FIRST_RETRY
        elif (
            began > self._failed_at
        ):  # otherwise it failed beside the one before, by the same cause
            self._retry_delay = min(self._retry_delay * 2, LAST_RETRY)
        self._failed_at = self._clock()
        self._retry_at = self._failed_at + self._retry_delay

    def _forget(self, name: str, task_id: str) -> None:
        left = [pair for pair in self._unsettled.get(name, []) if pair[0] != task_id]
        if left:
            self._unsettled[name] = left
        else:
            self._unsettled.pop(name, None)

    def _note_idle(self) -> None:
        delivered = self._publisher is None or (
            self._loaded and not self._waiting and not self._flying
        )
        if delivered and not self._unwritten:
            self._idle.set()
        else:
            self._idle.clear()

    # ---- what others put there --------------------------------------------------------------

    def _knows(self, name: str) -> bool:
        """Called on the disk's thread, too."""
        return name in self._waiting or name in self._flying

    def _adopt(self, names: list[str]) -> None:
        if self._stopping:
            return
        # Behind our own, so that two receivers do not go through one list side by side.
        for name in names:
            self._waiting.setdefault(name)
        event(logger, logging.INFO, "registrations found in the outbox", registrations=len(names))
        self._delivery_wanted.set()

    async def _visit(self, call: Callable[[], Visit]) -> Visit:
        return await self._on_disk(call)

    # ---- waiting ----------------------------------------------------------------------------

    async def _on_disk(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._disk_thread, lambda: call(*args, **kwargs))

    async def _until_done(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Storage that fails is tried again, for ever."""
        delay = FIRST_DISK_RETRY
        while True:
            try:
                return await self._on_disk(call, *args, **kwargs)
            except OSError as error:
                if delay == FIRST_DISK_RETRY:
                    event(logger, logging.ERROR, "outbox unusable; retrying", error=error)
            await self._sleep(delay)
            delay = min(delay * 2, LAST_DISK_RETRY)

    async def _pause(self, seconds: float) -> None:
        """Until something is to be delivered, but no longer than `seconds`."""
        waits = [
            asyncio.ensure_future(self._sleep(seconds)),
            asyncio.ensure_future(self._delivery_wanted.wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


def _tell_refused(entry: OutboxEntry, refusal: RegistrationRefused) -> None:
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
