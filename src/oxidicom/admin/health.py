"""Is it fit to receive? Checks that answer at once, whatever hangs behind them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from oxidicom.admin.liveness import Liveness
from oxidicom.admin.model import Check, OutboxStatus, State
from oxidicom.logevents import describe
from oxidicom.process_signature import sign
from oxidicom.thread_names import pool_thread_namer

INTERVAL: Final = 5.0
"""Seconds from one question to the next, more where answers take long."""
LIMIT: Final = 2.0
"""Seconds after which whoever was asked does not answer."""
_SHARE: Final = 50
"""Whatever is asked is busy with it for at most a 50th of its time."""

T = TypeVar("T")


class Watched(Generic[T]):
    """A question that is asked again and again, but never while an earlier one is unanswered.

    `tell` makes an answer of what was raised instead.
    """

    def __init__(
        self,
        ask: Callable[[], Awaitable[T]],
        tell: Callable[[Exception], T],
        clock: Callable[[], float],
    ) -> None:
        self._ask = ask
        self._tell = tell
        self._clock = clock
        self._asked: float | None = None
        self.answer: T | None = None
        """None until there was one."""

    async def run(self) -> None:
        while True:
            self._asked = began = self._clock()
            try:
                self.answer = await self._ask()
            except Exception as error:
                self.answer = self._tell(error)
            took = self._clock() - began
            self._asked = None
            # Who was late hung, and may be well again soon.
            await asyncio.sleep(max(INTERVAL, _SHARE * took if took <= LIMIT else 0.0))

    def silent_for(self) -> float | None:
        """Seconds without an answer, once it is late; None if it is not."""
        silence = 0.0 if self._asked is None else self._clock() - self._asked
        return silence if silence > LIMIT else None


class Standing(Protocol):
    """Of the outbox's folder."""

    @property
    def pending(self) -> int: ...
    @property
    def refused(self) -> int: ...
    @property
    def oldest_at(self) -> float | None:
        """Seconds since the epoch."""


class StorageAnswer(NamedTuple):
    fault: str | None
    """Of the first folder that cannot be written."""
    free: int | None
    """Bytes, in the files root."""
    outbox: Standing | None


class StorageProbe:
    """Writes a small file into each of the folders, given by what they are to a person, and looks
    at the rest; on a thread of its own, for storage may hang."""

    def __init__(
        self,
        folders: Mapping[str, Path],
        root: Path,
        look: Callable[[], Standing],
    ) -> None:
        self._folders = folders
        self._root = root
        self._look = look
        self._thread = ThreadPoolExecutor(1, initializer=pool_thread_namer("ox-storage-probe"))
        # The names by which the folders' users know what the dead have left.
        self._names = (f"{sign()}-probe.part", f".{sign()}-probe.tmp")

    async def ask(self) -> StorageAnswer:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._probe)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _probe(self) -> StorageAnswer:
        fault: str | None = None
        free: int | None = None
        outbox: Standing | None = None
        for (what, folder), name in zip(self._folders.items(), self._names, strict=True):
            try:
                _write(folder, name)
            except OSError as error:
                fault = fault or f"{what} cannot be written: {describe(error)}"
        with suppress(OSError):
            space = os.statvfs(self._root)
            free = space.f_bavail * space.f_frsize
        with suppress(OSError):
            outbox = self._look()
        return StorageAnswer(fault, free, outbox)


def _write(folder: Path, name: str) -> None:
    with suppress(FileExistsError):  # somebody may have removed it; whoever uses it minds no more
        folder.mkdir(mode=0o700, parents=True)
    path = folder / name
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            os.write(descriptor, b"probe")
        finally:
            os.close(descriptor)  # NFS reports a full disk only here
    finally:
        os.unlink(path)


class Deliveries(Protocol):
    """The outbox's courier."""

    @property
    def depth(self) -> int: ...
    @property
    def trouble(self) -> str | None: ...


class Health:
    """`registers`: somebody takes registrations, a broker or CUBE itself; `broker` is None where
    it is not asked whether it is there. `nats` says whether NATS is connected, None if there is
    none. The callables answer at once."""

    def __init__(
        self,
        *,
        storage: Watched[StorageAnswer],
        min_free_space: int,
        registers: bool,
        broker: Watched[str | None] | None,
        courier: Callable[[], Deliveries],
        nats: Callable[[], bool | None],
        draining: Callable[[], bool],
        liveness: Liveness,
        workers: int,
    ) -> None:
        self._storage = storage
        self._min_free_space = min_free_space
        self._registers = registers
        self._broker = broker
        self._courier = courier
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
        answer = self._storage.answer
        standing = None if answer is None else answer.outbox
        pending = self._courier().depth
        if standing is None:
            return OutboxStatus(pending=pending)
        if not self._registers:
            # Nobody takes them, and so nobody knows them but the disk.
            pending = standing.pending
        oldest_at = standing.oldest_at if pending else None
        return OutboxStatus(pending=pending, refused=standing.refused, oldest_at=oldest_at)

    def _draining_check(self) -> Check:
        if self._draining():
            return _check("draining", "failed", "shutting down: no new associations")
        return _check("draining", "ok", "open for associations")

    def _workers_check(self) -> Check:
        answering, all_of_them = self._liveness.answering(), self._workers
        detail = f"{answering} of {all_of_them} receiving processes answer"
        if answering >= all_of_them:
            return _check("workers", "ok", detail)
        return _check("workers", "degraded" if answering else "failed", detail)

    def _storage_check(self) -> Check:
        silence = self._storage.silent_for()
        if silence is not None:
            return _check("storage", "failed", f"does not answer for {silence:.0f} s")
        answer = self._storage.answer
        if answer is None:
            return _check("storage", "failed", "has not answered yet")
        if answer.fault is not None:
            return _check("storage", "failed", answer.fault)
        return _check("storage", "ok", "can be written")

    def _space_check(self) -> Check:
        answer = self._storage.answer
        if answer is None or answer.free is None:
            return _check("space", "degraded", "not known")
        detail = f"{_size(answer.free)} free in the files root"
        if answer.free < max(1, self._min_free_space):
            least = f", {_size(self._min_free_space)} must be" if self._min_free_space else ""
            return _check("space", "failed", f"{detail}{least}: instances are refused")
        return _check("space", "ok", detail)

    def _broker_check(self) -> Check:
        if not self._registers:
            return _check("broker", "ok", "none is set: registrations wait in the outbox")
        reason = self._courier().trouble or self._absence()
        if reason is None:
            return _check("broker", "ok", "takes registrations")
        return _check("broker", "degraded", f"registrations wait in the outbox: {reason}")

    def _absence(self) -> str | None:
        if self._broker is None:
            return None
        silence = self._broker.silent_for()
        return self._broker.answer if silence is None else f"no answer for {silence:.0f} s"

    def _nats_checks(self) -> list[Check]:
        connected = self._nats()
        if connected is None:
            return []
        if connected:
            return [_check("nats", "ok", "connected")]
        return [_check("nats", "degraded", "away: progress is not told")]


def _check(name: str, state: State, detail: str) -> Check:
    return Check(name=name, state=state, detail=detail)


def _size(size: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
