"""A long day of small instances: memory and file descriptors stay as they were (promise 5).

Registered series are taken from the queue and from the disk as they come, as CUBE would, so that
the day needs no disk.
"""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.adversity.conftest import Figures, Scale
from tests.support.brokers import NatsServer, RedisServer
from tests.support.data import Instance
from tests.support.raw_peer import EXPLICIT, RawPeer
from tests.support.receiver import Receiver, wait_until
from tests.support.redis_lists import Envelope, admin

EACH = 20
"""Instances of one association, all of a series of its own."""

SENDERS = 4

WARM_UP = 0.4
"""Of the whole: what is remembered of ended associations and series is bounded, but first fills."""

MEMORY, MEMORY_IF_SHORT = 0.05, 0.5
"""The share by which resident memory may differ; a short form never gets warm."""

QUEUE = "soak"


@pytest.fixture
def root() -> Iterator[Path]:
    """In memory, where there is some: the disk is not what is tried."""
    shared = Path("/dev/shm")
    folder = Path(
        tempfile.mkdtemp(dir=shared if shared.is_dir() else None, prefix="oxidicom-soak-")
    )
    yield folder
    shutil.rmtree(folder)


class Sample(NamedTuple):
    associations: int
    resident: int
    files: int


class Load:
    """`associations` of them over SENDERS threads."""

    def __init__(self, port: int, associations: int) -> None:
        self.done = 0
        self.over = threading.Event()
        """All are done, or one has failed."""
        self.failures: list[BaseException] = []
        self._port = port
        self._number = associations
        self._left = iter(range(associations))
        self._lock = threading.Lock()
        # Instances differ in what must differ only: encoding a million would be most of the day.
        series, instance = f"1.2.826.{10**9}", f"1.2.826.{2 * 10**12}"
        template = Instance(series=series, sop_instance=instance, pixels=2000)
        self._template = template.encode(EXPLICIT)
        self._series, self._instance = series.encode(), instance.encode()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(SENDERS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        try:
            while (number := self._next()) is not None:
                self._associate(number)
                with self._lock:
                    self.done += 1
                    if self.done == self._number:
                        self.over.set()
        except BaseException as failure:
            self.failures.append(failure)
            self.over.set()

    def _next(self) -> int | None:
        with self._lock:
            return next(self._left, None)

    def _associate(self, number: int) -> None:
        series = f"1.2.826.{10**9 + number}"
        of_series = self._template.replace(self._series, series.encode())
        with RawPeer(self._port, timeout=60) as peer:
            peer.associate()
            for index in range(EACH):
                instance = f"1.2.826.{2 * 10**12 + number * EACH + index}"
                data_set = of_series.replace(self._instance, instance.encode())
                assert peer.store(instance, data_set).status == 0
            peer.release()


class Cube(threading.Thread):
    """Takes registrations, looks at their folders, and throws them away."""

    def __init__(self, redis: RedisServer, root: Path) -> None:
        super().__init__(daemon=True)
        self.registered = 0
        self.failure: BaseException | None = None
        self._redis = redis
        self._root = root
        self._over = threading.Event()

    def run(self) -> None:
        try:
            with admin(self._redis) as client:
                while not self._over.is_set():
                    taken = client.brpop([QUEUE], timeout=1)
                    if taken is not None:
                        self._take(Envelope(json.loads(taken[1])))
        except BaseException as failure:
            self.failure = failure

    def _take(self, task: Envelope) -> None:
        folder = self._root / task.kwargs["path"]
        assert task.kwargs["ndicom"] == len(list(folder.iterdir())) == EACH
        shutil.rmtree(folder)
        self.registered += 1

    def stop(self) -> None:
        self._over.set()
        self.join(30)
        if self.failure is not None:
            raise self.failure


def sample(receiver: Receiver, load: Load) -> Sample:
    resident = sum(process.memory_info().rss for process in receiver.processes())
    return Sample(load.done, resident, receiver.open_files())


@pytest.mark.long_limit(7200)
@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.long)])
def test_memory_and_file_descriptors_are_flat(
    root: Path,
    nats_server: NatsServer,
    redis_server: RedisServer,
    scale: Scale,
    figures: Figures,
    long: bool,
    workers: int,
) -> None:
    associations = scale(200, 50_000)
    receiver = Receiver(
        root,
        OXIDICOM_WORKERS=str(workers),
        OXIDICOM_NATS_ADDRESS=nats_server.url,
        OXIDICOM_ROOT_SUBJECT=QUEUE,
        OXIDICOM_CELERY_BROKER=f"{redis_server.url}/0",
        OXIDICOM_QUEUE_NAME=QUEUE,
    )
    samples: list[Sample] = []
    with receiver:
        cube = Cube(redis_server, root)
        cube.start()
        load = Load(receiver.port, associations)
        began = time.monotonic()
        load.start()
        while not load.over.wait(1 if long else 0.1):
            samples.append(sample(receiver, load))
        samples.append(sample(receiver, load))
        took = time.monotonic() - began
        assert not load.failures, load.failures
        wait_until(lambda: cube.registered >= associations or not cube.is_alive(), "CUBE", 60)
        cube.stop()
        assert cube.registered == associations
        assert receiver.outbox() == []
        receiver.stop()
    warm = [each for each in samples if each.associations >= WARM_UP * associations]
    quarter = max(1, len(warm) // 4)
    first = statistics.median(each.resident for each in warm[:quarter])
    last = statistics.median(each.resident for each in warm[-quarter:])
    most_files = [max(each.files for each in part) for part in (warm[:quarter], warm[-quarter:])]
    figures(
        f"{associations * EACH} instances over {associations} associations in {took:.0f} s "
        f"({associations * EACH / took:.0f}/s): resident {first / 2**20:.1f} MiB when warm, "
        f"{last / 2**20:.1f} at the end ({last / first - 1:+.1%}); "
        f"file descriptors at most {most_files[0]} and {most_files[1]}"
    )
    for tenth in range(1, 11):
        at = next(each for each in samples if 10 * each.associations >= tenth * associations)
        figures(f"  {at.associations:6}: {at.resident / 2**20:.1f} MiB, {at.files} descriptors")
    assert abs(last / first - 1) < (MEMORY if long else MEMORY_IF_SHORT)
    assert most_files[1] <= most_files[0] + 8
