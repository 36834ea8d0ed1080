"""States that a crash may leave between two steps (docs/guarantees.md, crash matrix), made by hand,
and what the next start does with them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.brokers import RabbitMQ
from tests.support.data import Instance
from tests.support.raw_peer import EXPLICIT, RawPeer
from tests.support.receiver import Receiver, wait_until
from tests.support.task_queue import TaskQueue


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    """Return a receiver that completes open series at the start after the next kill, and not
    before."""
    receiver = Receiver(tmp_path, OXIDICOM_SERIES_SETTLE="1h", OXIDICOM_INCOMPLETE_SETTLE="0s")
    with receiver:
        yield receiver


def store_and_kill(receiver: Receiver, instance: Instance) -> None:
    with RawPeer(receiver.port) as peer:
        peer.associate()
        assert peer.store(instance.sop_instance, instance.encode(EXPLICIT)).status == 0
        receiver.kill()
    receiver.environment["OXIDICOM_SERIES_SETTLE"] = "0s"


def journal(receiver: Receiver) -> list[Path]:
    return list((receiver.state / "journal").glob("*.json"))


def test_journal_entry_without_the_file(receiver: Receiver) -> None:
    instance = Instance()
    store_and_kill(receiver, instance)
    receiver.path_of(instance.sop_instance).unlink()
    receiver.start()
    told = receiver.wait_for_log("series has no instances; not registered")
    assert told["SeriesInstanceUID"] == instance.series
    assert journal(receiver) == []
    assert receiver.outbox() == []


def test_journal_entry_beside_an_outbox_entry_that_waits(receiver: Receiver) -> None:
    instance = Instance()
    store_and_kill(receiver, instance)
    (entry,) = journal(receiver)
    kept = shutil.copy(entry, receiver.root / "kept")
    receiver.start()
    receiver.wait_for_log("series complete")
    receiver.kill()
    assert journal(receiver) == []
    shutil.copy(kept, entry)
    receiver.start()
    receiver.wait_for_log("series complete")
    assert journal(receiver) == []
    assert [each["ndicom"] for each in receiver.wait_for_outbox(1)] == [1], "replaced by the newer"


def test_outbox_entry_that_was_confirmed(receiver: Receiver, rabbitmq: RabbitMQ) -> None:
    instance = Instance()
    store_and_kill(receiver, instance)
    receiver.start()
    receiver.wait_for_log("series complete")
    (entry,) = (receiver.state / "outbox").glob("*.json")
    kept = shutil.copy(entry, receiver.root / "kept")
    receiver.environment |= {
        "OXIDICOM_QUEUE_NAME": "twice",
        "OXIDICOM_CELERY_BROKER": rabbitmq.url,
    }
    for _ in range(2):
        receiver.kill()
        shutil.copy(kept, entry)
        receiver.start()
        wait_until(lambda: receiver.outbox() == [], "the outbox to empty")
    with TaskQueue(rabbitmq.url, "twice") as queue:
        first, again = queue.take_all()
    assert first.headers["id"] == again.headers["id"]
    assert first.kwargs == again.kwargs


@pytest.mark.parametrize("workers", [1, 2])
def test_older_file_of_an_instance_that_was_to_go(receiver: Receiver, workers: int) -> None:
    receiver.stop()
    receiver.environment["OXIDICOM_WORKERS"] = str(workers)
    receiver.start()
    instance = Instance(number=2)
    store_and_kill(receiver, instance)
    newer = receiver.path_of(instance.sop_instance)
    older = newer.with_name(f"0001-{instance.sop_instance}.dcm")
    shutil.copy(newer, older)
    os.utime(older, (0, 0))  # where the file system's clock does not tell the two names apart
    newer.rename(newer.with_suffix(".moved")).rename(newer)
    receiver.start()
    assert receiver.wait_for_registration(instance.series)["ndicom"] == 1
    assert receiver.files() == [newer]
