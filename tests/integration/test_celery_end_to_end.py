"""A Celery worker with CUBE's settings runs the registrations of a receiver."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.brokers import Broker
from tests.support.cube import PREFIX
from tests.support.data import Instance
from tests.support.raw_peer import EXPLICIT, RawPeer
from tests.support.receiver import PROJECT, Receiver, wait_until

QUEUE = "cube"

WORKER = ["-Q", QUEUE, "--pool", "solo", "--loglevel", "INFO", "--without-gossip"]


class Calls(NamedTuple):
    folder: Path

    def of(self, series: str) -> list[dict[str, Any]]:
        calls = (json.loads(path.read_text()) for path in self.folder.glob("*.json"))
        return [call for call in calls if call["SeriesInstanceUID"] == series]


@pytest.fixture(scope="module", params=["rabbitmq", "redis_server"])
def broker(request: pytest.FixtureRequest) -> Broker:
    broker: Broker = request.getfixturevalue(request.param)
    return broker


@pytest.fixture(scope="module")
def root(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def receiver(root: Path, broker: Broker) -> Iterator[Receiver]:
    with Receiver(
        root,
        OXIDICOM_CELERY_BROKER=broker.url,
        OXIDICOM_QUEUE_NAME=QUEUE,
        OXIDICOM_SERIES_SETTLE="500ms",
    ) as receiver:
        yield receiver


@pytest.fixture(scope="module")
def calls(
    receiver: Receiver, broker: Broker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Calls]:
    """Return the arguments of the calls of the worker's task."""
    folder = tmp_path_factory.mktemp("calls")
    environment = {
        f"{PREFIX}BROKER": broker.url,
        f"{PREFIX}QUEUE": QUEUE,
        f"{PREFIX}ROOT": str(receiver.root),
        f"{PREFIX}CALLS": str(folder),
        "PYTHONPATH": str(PROJECT),
    }
    output = folder / "worker.log"
    with output.open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "tests.support.cube", "worker", *WORKER],
            env=os.environ | environment,
            cwd=PROJECT,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Calls(folder)
    finally:
        worker.terminate()
        worker.wait(20)
        sys.stderr.write(output.read_text(errors="replace")[-2000:])


def test_the_task_is_called_once_for_each_series(receiver: Receiver, calls: Calls) -> None:
    first = Instance(PatientName="Müller^Jürgen", PatientBirthDate=None, pixels=20_000)
    series = [first, *(Instance(series=first.series, number=number) for number in (2, 3))]
    other = Instance()
    with RawPeer(receiver.port) as peer:
        peer.associate(calling=b"PACS ONE")
        for instance in (*series, other):
            response = peer.store(instance.sop_instance, instance.encode(EXPLICIT))
            assert response.status == 0
        peer.release()
    wait_until(lambda: bool(calls.of(first.series) and calls.of(other.series)), "the tasks", 30)
    (call,) = calls.of(first.series)
    assert call.pop("files") == sorted(
        f"{number:04}-{instance.sop_instance}.dcm" for number, instance in enumerate(series, 1)
    )
    path = receiver.path_of(first.sop_instance).parent.relative_to(receiver.root)
    assert call == {
        "PatientID": "P1",
        "StudyDate": "2024-01-31",
        "StudyInstanceUID": f"{first.series}.0",
        "SeriesInstanceUID": first.series,
        "pacs_name": "PACS_ONE",
        "path": path.as_posix(),
        "ndicom": 3,
        "PatientName": "Müller^Jürgen",
        "PatientBirthDate": None,
        "PatientAge": 16071,
        "PatientSex": "F",
        "AccessionNumber": "ACC1",
        "Modality": "CT",
        "ProtocolName": "Routine",
        "StudyDescription": "Chest",
        "SeriesDescription": "Lung",
    }
    (call,) = calls.of(other.series)
    assert call["ndicom"] == len(call["files"]) == 1
    assert receiver.outbox() == []


def test_a_series_over_concurrent_associations_is_one_task(
    receiver: Receiver, calls: Calls
) -> None:
    series = Instance().series
    instances = [Instance(series=series, number=number) for number in range(1, 41)]

    def send(share: list[Instance]) -> None:
        with RawPeer(receiver.port) as peer:
            peer.associate()
            for instance in share:
                peer.store(instance.sop_instance, instance.encode(EXPLICIT))
            peer.release()

    threads = [threading.Thread(target=send, args=[instances[n::4]]) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_until(lambda: bool(calls.of(series)), "the task", 30)
    (call,) = calls.of(series)
    assert call["ndicom"] == len(call["files"]) == 40
