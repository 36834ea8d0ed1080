"""Health checks of the receiver. They return at once, even while storage or a broker hangs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from oxidicom.admin.liveness import Liveness
from oxidicom.admin.model import Check, CheckState, OutboxStatus
from oxidicom.logevents import describe
from oxidicom.process_signature import sign
from oxidicom.thread_names import pool_thread_namer

PROBE_INTERVAL_S: Final = 5.0
"""Seconds from the end of one probe to the start of the next; the pause is longer after a slow
probe."""

PROBE_TIMEOUT_S: Final = 2.0
"""Seconds after which a probe counts as not responding."""

_PAUSE_PER_DURATION: Final = 50
"""Least pause after a probe as a multiple of its duration, so that probes take less than 2 % of the
time."""

T = TypeVar("T")


class PeriodicProbe(Generic[T]):
    """Runs `probe` at intervals, never twice at the same time, and keeps its latest result.

    `on_error` returns the result for an exception. `clock` returns seconds of a monotonic clock.
    """

    def __init__(
        self,
        probe: Callable[[], Awaitable[T]],
        on_error: Callable[[Exception], T],
        clock: Callable[[], float],
    ) -> None:
        self._probe = probe
        self._on_error = on_error
        self._clock = clock
        self._started: float | None = None
        """Time at which the running probe was started; None between probes."""
        self.result: T | None = None
        """Result of the latest probe; None until the first one has ended."""

    async def run(self) -> None:
        """Run probes until this task is cancelled."""
        while True:
            self._started = started = self._clock()
            try:
                self.result = await self._probe()
            except Exception as error:
                self.result = self._on_error(error)
            duration = self._clock() - started
            self._started = None
            # After a probe that exceeded the timeout, probe again soon: the fault may be over.
            slow = _PAUSE_PER_DURATION * duration if duration <= PROBE_TIMEOUT_S else 0.0
            await asyncio.sleep(max(PROBE_INTERVAL_S, slow))

    def overdue(self) -> float | None:
        """Return for how many seconds the current probe has been running, if these are more than
        `PROBE_TIMEOUT_S`; otherwise None."""
        duration = 0.0 if self._started is None else self._clock() - self._started
        return duration if duration > PROBE_TIMEOUT_S else None


class OutboxFolderCounts(Protocol):
    """Numbers of pending and of refused entries in the outbox folder."""

    @property
    def pending(self) -> int: ...
    @property
    def refused(self) -> int: ...
    @property
    def oldest_at(self) -> float | None:
        """Time at which the oldest pending entry was written, in seconds since the epoch; None if
        there is none."""


class StorageState(NamedTuple):
    """The result of one probe of the storage."""

    fault: str | None
    """Text that says why a folder cannot be written, for the first such folder; None if there is
    none."""
    free: int | None
    """Free space in bytes of the file system of the files root; None if it cannot be read."""
    outbox: OutboxFolderCounts | None
    """Counts of the outbox folder; None if it cannot be read."""


class StorageProbe:
    """Writes a small file into each folder, and reads the free space and the outbox folder.

    It uses a thread of its own, because storage may hang. `folders` are two paths, each by the name
    that operators read; `root` is the files root.
    """

    def __init__(
        self,
        folders: Mapping[str, Path],
        root: Path,
        read_outbox: Callable[[], OutboxFolderCounts],
    ) -> None:
        self._folders = folders
        self._root = root
        self._read_outbox = read_outbox
        self._thread = ThreadPoolExecutor(1, initializer=pool_thread_namer("ox-probe"))
        # Names by which the clean-up of each folder recognises files of a dead process.
        self._names = (f"{sign()}-probe.part", f".{sign()}-probe.tmp")

    async def run(self) -> StorageState:
        """Probe once, however long the storage takes; return the result."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._probe)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _probe(self) -> StorageState:
        fault: str | None = None
        free: int | None = None
        outbox: OutboxFolderCounts | None = None
        for (label, folder), name in zip(self._folders.items(), self._names, strict=True):
            try:
                _write(folder, name)
            except OSError as error:
                fault = fault or f"{label} cannot be written: {describe(error)}"
        with suppress(OSError):
            space = os.statvfs(self._root)
            free = space.f_bavail * space.f_frsize
        with suppress(OSError):
            outbox = self._read_outbox()
        return StorageState(fault, free, outbox)


def _write(folder: Path, name: str) -> None:
    with suppress(FileExistsError):  # it may have been removed; the code that uses it also makes it
        folder.mkdir(mode=0o700, parents=True)
    path = folder / name
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            os.write(descriptor, b"probe")
        finally:
            os.close(descriptor)  # NFS reports a full disk only at close
    finally:
        os.unlink(path)


class DeliveryState(Protocol):
    """The state of the outbox relay; `depth` is the number of entries that wait for delivery."""

    @property
    def depth(self) -> int: ...
    @property
    def last_error(self) -> str | None:
        """Text that says why deliveries fail; None while they succeed."""


class HealthChecks:
    """Computes the checks of `/readyz` and `/status` from the results of probes and counters.

    `registers` is whether a broker or CUBE is configured. `broker` is None if the broker is not
    probed. `nats` returns whether NATS is connected, or None if it is not configured. `draining`
    returns whether the receiver is shutting down. All callables return at once.
    """

    def __init__(
        self,
        *,
        storage: PeriodicProbe[StorageState],
        min_free_space: int,
        registers: bool,
        broker: PeriodicProbe[str | None] | None,
        relay: Callable[[], DeliveryState],
        nats: Callable[[], bool | None],
        draining: Callable[[], bool],
        liveness: Liveness,
        workers: int,
    ) -> None:
        self._storage = storage
        self._min_free_space = min_free_space
        self._registers = registers
        self._broker = broker
        self._relay = relay
        self._nats = nats
        self._draining = draining
        self._liveness = liveness
        self._workers = workers

    def checks(self) -> list[Check]:
        return [
            self._draining_check(),
            self._workers_check(),
            self._storage_check(),
            self._space_check(),
            self._broker_check(),
            *self._nats_checks(),
        ]

    def outbox(self) -> OutboxStatus:
        state = self._storage.result
        on_disk = None if state is None else state.outbox
        pending = self._relay().depth
        if on_disk is None:
            return OutboxStatus(pending=pending)
        if not self._registers:
            # Without a publisher the relay does not read the folder and does not know the number.
            pending = on_disk.pending
        oldest_at = on_disk.oldest_at if pending else None
        return OutboxStatus(pending=pending, refused=on_disk.refused, oldest_at=oldest_at)

    def _draining_check(self) -> Check:
        if self._draining():
            return _check("draining", "failed", "shutting down; no new associations")
        return _check("draining", "ok", "accepting associations")

    def _workers_check(self) -> Check:
        responding = self._liveness.responding()
        detail = f"{responding} of {self._workers} receiving processes responding"
        if responding >= self._workers:
            return _check("workers", "ok", detail)
        return _check("workers", "degraded" if responding else "failed", detail)

    def _storage_check(self) -> Check:
        overdue = self._storage.overdue()
        if overdue is not None:
            return _check("storage", "failed", f"not responding for {overdue:.0f} s")
        state = self._storage.result
        if state is None:
            return _check("storage", "failed", "not checked yet")
        if state.fault is not None:
            return _check("storage", "failed", state.fault)
        return _check("storage", "ok", "writable")

    def _space_check(self) -> Check:
        state = self._storage.result
        if state is None or state.free is None:
            return _check("space", "degraded", "unknown")
        detail = f"{_size(state.free)} free in the files root"
        if state.free < max(1, self._min_free_space):
            least = f", minimum {_size(self._min_free_space)}" if self._min_free_space else ""
            return _check("space", "failed", f"{detail}{least}; instances are refused")
        return _check("space", "ok", detail)

    def _broker_check(self) -> Check:
        if not self._registers:
            return _check("broker", "ok", "not configured; registrations stay in the outbox")
        reason = self._relay().last_error or self._broker_fault()
        if reason is None:
            return _check("broker", "ok", "accepting registrations")
        return _check("broker", "degraded", f"registrations wait in the outbox: {reason}")

    def _broker_fault(self) -> str | None:
        if self._broker is None:
            return None
        overdue = self._broker.overdue()
        return self._broker.result if overdue is None else f"not responding for {overdue:.0f} s"

    def _nats_checks(self) -> list[Check]:
        connected = self._nats()
        if connected is None:
            return []
        if connected:
            return [_check("nats", "ok", "connected")]
        return [_check("nats", "degraded", "unreachable; progress is dropped")]


def _check(name: str, state: CheckState, detail: str) -> Check:
    return Check(name=name, state=state, detail=detail)


def _size(size: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
