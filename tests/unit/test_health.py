"""Health checks return at once, even while storage or a broker hangs."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from oxidicom.admin import health as module
from oxidicom.admin.health import HealthChecks, PeriodicProbe, StorageProbe, StorageState
from oxidicom.admin.liveness import WORKER_SILENT_AFTER_S, Heartbeat, Liveness
from oxidicom.admin.model import Check


class Counts(NamedTuple):
    pending: int = 3
    refused: int = 2
    oldest_at: float | None = 5.0


class Relay:
    depth = 0
    last_error: str | None = None


class Bench:
    """Health checks with inputs that a test can set; at first all are ok."""

    def __init__(self) -> None:
        self.now = 100.0
        self.storage = self.watched(StorageState(None, 10 << 30, Counts()))
        self.broker: PeriodicProbe[str | None] | None = None
        self.registers = False
        self.relay = Relay()
        self.nats: bool | None = None
        self.draining = False
        self.min_free_space = 0
        self.workers = 1
        self.liveness = Liveness(lambda: self.now)
        self.liveness.beat(1)

    def watched(self, answer: object) -> PeriodicProbe[object]:
        watched = PeriodicProbe[object](never_run, str, lambda: self.now)
        watched.result = answer
        return watched

    @property
    def health(self) -> HealthChecks:
        return HealthChecks(
            storage=self.storage,  # type: ignore[arg-type]
            min_free_space=self.min_free_space,
            registers=self.registers,
            broker=self.broker,
            relay=lambda: self.relay,
            nats=lambda: self.nats,
            draining=lambda: self.draining,
            liveness=self.liveness,
            workers=self.workers,
        )

    def check(self, name: str) -> tuple[str, str]:
        (check,) = (each for each in self.health.checks() if each.name == name)
        return check.state, check.detail


async def never_run() -> object:
    raise AssertionError


@pytest.fixture
def bench() -> Bench:
    return Bench()


def states(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.state for check in checks}


def test_all_checks_are_ok(bench: Bench) -> None:
    assert states(bench.health.checks()) == dict.fromkeys(
        ("draining", "workers", "storage", "space", "broker"), "ok"
    )


def test_a_draining_receiver_is_not_ready(bench: Bench) -> None:
    bench.draining = True
    assert bench.check("draining")[0] == "failed"


def test_silent_workers_degrade_and_without_any_worker_the_check_fails(bench: Bench) -> None:
    bench.workers = 2
    assert bench.check("workers") == ("degraded", "1 of 2 receiving processes responding")
    bench.liveness.beat(2)
    assert bench.check("workers")[0] == "ok"
    bench.liveness.died(1)
    assert bench.check("workers")[0] == "degraded"
    bench.now += WORKER_SILENT_AFTER_S
    assert bench.check("workers") == ("failed", "0 of 2 receiving processes responding")
    assert bench.liveness.silence() == WORKER_SILENT_AFTER_S


def test_storage_that_cannot_be_written_fails(bench: Bench) -> None:
    bench.storage.result = StorageState("the files root cannot be written: EIO", None, None)
    assert bench.check("storage") == ("failed", "the files root cannot be written: EIO")
    assert bench.check("space") == ("degraded", "unknown")
    bench.storage.result = None
    assert bench.check("storage")[0] == "failed"


def test_less_space_than_the_minimum_fails(bench: Bench) -> None:
    bench.min_free_space = 10 << 30
    assert bench.check("space") == ("ok", "10.0 GiB free in the files root")
    bench.min_free_space += 1
    assert bench.check("space")[0] == "failed"
    bench.min_free_space = 0
    bench.storage.result = StorageState(None, 0, None)
    assert bench.check("space") == (
        "failed",
        "0 bytes free in the files root; instances are refused",
    )


def test_a_broker_that_fails_degrades(bench: Bench) -> None:
    assert bench.check("broker") == ("ok", "not configured; registrations stay in the outbox")
    bench.registers = True
    assert bench.check("broker") == ("ok", "accepting registrations"), (
        "without a probe, as with CUBE"
    )
    bench.broker = bench.watched(None)  # type: ignore[assignment]
    assert bench.check("broker") == ("ok", "accepting registrations")
    bench.broker = bench.watched("ConnectionRefusedError")  # type: ignore[assignment]
    waits = "registrations wait in the outbox: "
    assert bench.check("broker") == ("degraded", waits + "ConnectionRefusedError")
    bench.relay.last_error = "TimeoutError"
    assert bench.check("broker") == ("degraded", waits + "TimeoutError")


def test_lonk_publisher(bench: Bench) -> None:
    bench.nats = True
    assert bench.check("nats") == ("ok", "connected")
    bench.nats = False
    assert bench.check("nats")[0] == "degraded"


def test_the_outbox_status_combines_relay_and_folder(bench: Bench) -> None:
    outbox = bench.health.outbox()
    assert (outbox.pending, outbox.refused, outbox.oldest_at) == (3, 2, 5.0)
    bench.registers = True
    outbox = bench.health.outbox()
    assert (outbox.pending, outbox.refused, outbox.oldest_at) == (0, 2, None)
    bench.relay.depth = 7
    bench.storage.result = None
    assert bench.health.outbox().pending == 7


class ControlledProbe:
    """A probe that ends when the test gives its result; `started` is set when it starts."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.results: asyncio.Queue[str | Exception] = asyncio.Queue()
        self.starts = 0

    async def __call__(self) -> str:
        self.starts += 1
        self.started.set()
        result = await self.results.get()
        if isinstance(result, Exception):
            raise result
        return result

    async def finish(self, result: str | Exception) -> None:
        """End the probe with a result, and return when the next one has started."""
        self.started.clear()
        self.results.put_nowait(result)
        await asyncio.wait_for(self.started.wait(), 5)


async def bench_with_probe(
    monkeypatch: pytest.MonkeyPatch, probe: Callable[[], Awaitable[str]]
) -> Bench:
    monkeypatch.setattr(module, "PROBE_INTERVAL_S", 0.0)
    bench = Bench()
    bench.storage = PeriodicProbe(probe, lambda error: f"failed: {error}", lambda: bench.now)
    return bench


async def test_only_one_probe_runs_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = ControlledProbe()
    bench = await bench_with_probe(monkeypatch, probe)
    watched = bench.storage
    running = asyncio.create_task(watched.run())
    await asyncio.wait_for(probe.started.wait(), 5)
    assert watched.overdue() is None
    bench.now += 60
    assert watched.overdue() == 60
    assert bench.check("storage") == ("failed", "not responding for 60 s")
    assert probe.starts == 1
    await probe.finish("ok")
    results = [watched.result]
    assert watched.overdue() is None
    await probe.finish(ValueError("no disk"))
    results.append(watched.result)
    assert results == ["ok", "failed: no disk"]
    running.cancel()


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    return {"the files root": tmp_path / "a" / "tmp", "the state folder": tmp_path / "b"}


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


async def probe(folders: dict[str, Path], root: Path) -> StorageState:
    storage_probe = StorageProbe(folders, root, Counts)
    try:
        return await storage_probe.run()
    finally:
        storage_probe.close()


async def test_the_storage_probe_leaves_no_files(folders: dict[str, Path], tmp_path: Path) -> None:
    answer = await probe(folders, tmp_path)
    assert answer.fault is None
    assert answer.free
    assert answer.outbox == Counts()
    assert files(tmp_path) == []


async def test_the_storage_probe_names_a_folder_that_cannot_be_written(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folders["the state folder"].symlink_to("/proc")
    answer = await probe(folders, tmp_path)
    assert answer.fault is not None
    assert answer.fault.startswith("the state folder cannot be written: ")
    assert "/proc" not in answer.fault


async def test_a_storage_probe_that_hangs_does_not_block_the_loop(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    thaw = threading.Event()
    hung = threading.Event()
    real = os.statvfs

    def statvfs(path: Path) -> os.statvfs_result:
        hung.set()
        thaw.wait()
        return real(path)

    monkeypatch.setattr(os, "statvfs", statvfs)
    storage_probe = StorageProbe(folders, tmp_path, Counts)
    running_probe = asyncio.ensure_future(storage_probe.run())
    await asyncio.to_thread(hung.wait, 5)
    assert not running_probe.done()
    thaw.set()
    assert (await asyncio.wait_for(running_probe, 5)).free
    storage_probe.close()


async def test_a_heartbeat_is_sent_at_once_and_then_at_intervals(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("oxidicom.admin.liveness.HEARTBEAT_INTERVAL_S", 0.001)
    beats = 0
    enough = asyncio.Event()

    def beat() -> None:
        nonlocal beats
        beats += 1
        if beats == 3:
            enough.set()

    heartbeat = Heartbeat(beat)
    assert beats == 1
    await asyncio.wait_for(enough.wait(), 5)
    heartbeat.stop()
