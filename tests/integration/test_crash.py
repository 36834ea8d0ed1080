"""kill -9 at any moment: what was acknowledged is stored and registered (decision 32)."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.brokers import RabbitMQ
from tests.support.data import Instance
from tests.support.ports import free_port
from tests.support.raw_peer import EXPLICIT, RawPeer, c_store_rq, p_data, pdv
from tests.support.receiver import Receiver, stored_data_set, wait_until
from tests.support.task_queue import TaskQueue


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[Receiver]:
    """Return a receiver that the test starts itself."""
    receiver = Receiver(tmp_path, OXIDICOM_SERIES_SETTLE="1h", OXIDICOM_INCOMPLETE_SETTLE="1s")
    with contextlib.ExitStack() as stack:
        stack.push(receiver)
        yield receiver


@pytest.fixture
def receiver(stopped: Receiver) -> Receiver:
    stopped.start()
    return stopped


class Load:
    """Senders that continue until the receiver dies, each with a series of its own."""

    def __init__(self, port: int, senders: int) -> None:
        self._port = port
        self._enough = threading.Semaphore(0)
        self.acknowledged: list[list[Instance]] = [[] for _ in range(senders)]
        self.sent: dict[str, bytes] = {}
        self._threads = [
            threading.Thread(target=self._send, args=[done]) for done in self.acknowledged
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self._threads:
            thread.join(30)

    def wait_for(self, instances: int) -> None:
        for _ in range(instances):
            assert self._enough.acquire(timeout=20)

    def _send(self, done: list[Instance]) -> None:
        series = Instance().series
        try:
            with RawPeer(self._port) as peer:
                peer.associate()
                for number in range(1, 100_000):
                    size = (500, 40_000, 700_000)[number % 3]
                    instance = Instance(series=series, number=number, pixels=size)
                    data_set = self.sent[instance.sop_instance] = instance.encode(EXPLICIT)
                    assert peer.store(instance.sop_instance, data_set).status == 0
                    done.append(instance)
                    self._enough.release()
        except (EOFError, OSError):
            return


@pytest.mark.parametrize(
    ("workers", "write_mode", "instances"),
    [
        *((1, "inline", count) for count in (1, 7, 60)),
        (1, "threads", 7),
        (2, "auto", 60),
    ],
)
def test_killed_under_load(
    stopped: Receiver, workers: int, write_mode: str, instances: int
) -> None:
    receiver = stopped
    receiver.environment["OXIDICOM_WORKERS"] = str(workers)
    receiver.environment["OXIDICOM_WRITE_MODE"] = write_mode
    receiver.start()
    with Load(receiver.port, senders=4) as load:
        load.wait_for(instances)
        receiver.kill()
    check_files(receiver, load)
    receiver.environment["OXIDICOM_SERIES_SETTLE"] = "0s"
    receiver.start()
    wait_until(lambda: not receiver.leftovers(), "temporary files swept")
    for done in filter(None, load.acknowledged):
        registration = receiver.wait_for_registration(done[0].series)
        folder = receiver.path_of(done[0].sop_instance).parent
        assert registration["ndicom"] == len(list(folder.iterdir())) >= len(done)
        assert registration["series"]["path"] == folder.relative_to(receiver.root).as_posix()
    receiver.stop()
    assert list((receiver.state / "journal").glob("*.json")) == []


def check_files(receiver: Receiver, load: Load) -> None:
    """Check that everything acknowledged is stored, and nothing incomplete is."""
    stored = {path.name.partition("-")[2].removesuffix(".dcm"): path for path in receiver.files()}
    acknowledged = {each.sop_instance for done in load.acknowledged for each in done}
    assert acknowledged <= set(stored)
    for sop_instance, path in stored.items():
        assert stored_data_set(path) == load.sent[sop_instance]


def test_an_incomplete_instance_is_removed_at_the_next_start(receiver: Receiver) -> None:
    instance = Instance(pixels=3_000_000)
    data_set = instance.encode(EXPLICIT)
    with RawPeer(receiver.port) as peer:
        peer.associate()
        command = c_store_rq(instance.sop_class, instance.sop_instance)
        peer.send(p_data(pdv(1, command, command=True, last=True)))
        for start in range(0, 2_000_000, 100_000):
            fragment = data_set[start : start + 100_000]
            peer.send(p_data(pdv(1, fragment, command=False, last=False)))
        wait_until(lambda: bool(receiver.leftovers()), "part of it on disk")
        receiver.kill()
    assert receiver.files() == []
    assert receiver.leftovers() != []
    receiver.start()
    wait_until(lambda: receiver.leftovers() == [], "temporary files swept")
    receiver.stop()
    assert receiver.files() == []
    assert receiver.outbox() == []


def test_resend_after_a_crash_is_one_registration(receiver: Receiver) -> None:
    series = Instance().series
    instances = [Instance(series=series, number=number) for number in range(1, 6)]
    with RawPeer(receiver.port) as peer:
        peer.associate()
        for instance in instances[:3]:
            assert peer.store(instance.sop_instance, instance.encode(EXPLICIT)).status == 0
        receiver.kill()
    receiver.environment |= {"OXIDICOM_SERIES_SETTLE": "0s", "OXIDICOM_INCOMPLETE_SETTLE": "3s"}
    receiver.start()
    with RawPeer(receiver.port) as peer:
        peer.associate()
        for instance in instances:
            assert peer.store(instance.sop_instance, instance.encode(EXPLICIT)).status == 0
        peer.release()
    assert receiver.outbox() == [], "it settles for the time of a recovered series"
    assert receiver.wait_for_registration(series)["ndicom"] == 5
    receiver.stop()


def test_outbox_survives(stopped: Receiver, rabbitmq: RabbitMQ) -> None:
    instance, receiver = Instance(), stopped
    receiver.environment |= {
        "OXIDICOM_SERIES_SETTLE": "0s",
        "OXIDICOM_QUEUE_NAME": "survivors",
        "OXIDICOM_CELERY_BROKER": f"amqp://guest:guest@127.0.0.1:{free_port()}/",
    }
    receiver.start()
    with RawPeer(receiver.port) as peer:
        peer.associate()
        assert peer.store(instance.sop_instance, instance.encode(EXPLICIT)).status == 0
        peer.release()
    receiver.wait_for_outbox(1)
    receiver.kill()
    receiver.environment["OXIDICOM_CELERY_BROKER"] = rabbitmq.url
    receiver.start()
    wait_until(lambda: receiver.outbox() == [], "the outbox to empty")
    with TaskQueue(rabbitmq.url, "survivors") as queue:
        (message,) = queue.take_all()
    assert message.kwargs["SeriesInstanceUID"] == instance.series
    assert message.kwargs["ndicom"] == 1
    receiver.stop()


def test_crash_after_crash(receiver: Receiver) -> None:
    # A crash during recovery: journal entries are removed only after the outbox has the series.
    instance = Instance()
    with RawPeer(receiver.port) as peer:
        peer.associate()
        assert peer.store(instance.sop_instance, instance.encode(EXPLICIT)).status == 0
        receiver.kill()
    receiver.environment["OXIDICOM_INCOMPLETE_SETTLE"] = "1h"
    for _ in range(2):
        receiver.start()
        receiver.kill()
    receiver.environment |= {"OXIDICOM_INCOMPLETE_SETTLE": "0s", "OXIDICOM_SERIES_SETTLE": "0s"}
    receiver.start()
    assert receiver.wait_for_registration(instance.series)["ndicom"] == 1
    receiver.stop()
