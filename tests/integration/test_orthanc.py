"""Orthanc sends stored series to us, as a PACS does."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest

from tests.support.brokers import find_program, free_port
from tests.support.data import Instance, part_10
from tests.support.raw_peer import EXPLICIT
from tests.support.receiver import Receiver, wait_until

ORTHANC = find_program("Orthanc")

pytestmark = pytest.mark.skipif(ORTHANC is None, reason="Orthanc is not installed")


class Orthanc:
    """A private server; `call` speaks its REST interface."""

    def __init__(self, folder: Path, receiver: Receiver) -> None:
        self.port = free_port()
        self.folder = folder
        self.configuration = {
            "Name": "test",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "index"),
            "Plugins": [],
            "HttpPort": self.port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomPort": free_port(),
            "DicomAet": "ORTHANC",
            "ConcurrentJobs": 4,
            "DicomModalities": {"oxidicom": ["ChRIS", "127.0.0.1", receiver.port]},
        }

    def start(self) -> subprocess.Popen[bytes]:
        assert ORTHANC is not None
        path = self.folder / "orthanc.json"
        path.write_text(json.dumps(self.configuration))
        with (self.folder / "orthanc.log").open("wb") as log:
            process = subprocess.Popen([ORTHANC, str(path)], stdout=log, stderr=log)
        wait_until(self.answers, "Orthanc to answer", 30)
        return process

    def answers(self) -> bool:
        try:
            return bool(self.call("/system"))
        except (OSError, urllib.error.URLError):
            return False

    def call(self, path: str, body: bytes | None = None) -> Any:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data=body)
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.loads(response.read())

    def upload(self, instance: Instance) -> str:
        """Orthanc's identifier of the instance's series."""
        identifier = self.call("/instances", part_10(instance, EXPLICIT))["ParentSeries"]
        assert isinstance(identifier, str)
        return identifier

    def store(self, *resources: str) -> Any:
        body = {"Resources": list(resources), "Synchronous": True, "Timeout": 60}
        return self.call("/modalities/oxidicom/store", json.dumps(body).encode())


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    with Receiver(tmp_path_factory.mktemp("files"), OXIDICOM_SERIES_SETTLE="1s") as receiver:
        yield receiver


@pytest.fixture(scope="module")
def orthanc(receiver: Receiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    orthanc = Orthanc(tmp_path_factory.mktemp("orthanc"), receiver)
    process = orthanc.start()
    try:
        yield orthanc
    finally:
        process.terminate()
        process.wait(20)
        sys.stderr.write((orthanc.folder / "orthanc.log").read_text(errors="replace")[-2000:])


def series_of(count: int) -> list[Instance]:
    series = Instance().series
    return [Instance(series=series, number=n, pixels=20_000) for n in range(1, count + 1)]


def assert_same(receiver: Receiver, instance: Instance, sent: Path) -> None:
    sent.write_bytes(part_10(instance, EXPLICIT))
    stored = pydicom.dcmread(receiver.path_of(instance.sop_instance))
    assert stored == pydicom.dcmread(sent)
    assert stored.file_meta.SourceApplicationEntityTitle == "ORTHANC"


def test_echo(orthanc: Orthanc) -> None:
    assert orthanc.call("/modalities/oxidicom/echo", b"{}") == {}


def test_series_is_stored_and_registered(
    orthanc: Orthanc, receiver: Receiver, tmp_path: Path
) -> None:
    instances = series_of(5)
    (identifier,) = {orthanc.upload(instance) for instance in instances}
    done = orthanc.store(identifier)
    assert (done["InstancesCount"], done["FailedInstancesCount"]) == (5, 0)
    for instance in instances:
        assert_same(receiver, instance, tmp_path / "sent.dcm")
    registration = receiver.wait_for_registration(instances[0].series)
    assert registration["ndicom"] == 5
    assert registration["series"]["pacs_name"] == "ORTHANC"


def test_two_series_at_once(orthanc: Orthanc, receiver: Receiver, tmp_path: Path) -> None:
    both = [series_of(8), series_of(8)]
    identifiers = [{orthanc.upload(instance) for instance in series} for series in both]
    failures: list[int] = []

    def store(identifier: str) -> None:
        failures.append(orthanc.store(identifier)["FailedInstancesCount"])

    threads = [threading.Thread(target=store, args=[*identifier]) for identifier in identifiers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == [0, 0]
    for series in both:
        for instance in series:
            assert_same(receiver, instance, tmp_path / "sent.dcm")
        assert receiver.wait_for_registration(series[0].series)["ndicom"] == 8


def test_series_that_orthanc_splits_is_registered_once(
    orthanc: Orthanc, receiver: Receiver
) -> None:
    instances = series_of(6)
    for instance in instances:
        orthanc.upload(instance)
    parts = [
        orthanc.call("/tools/lookup", instance.sop_instance.encode())[0]["ID"]
        for instance in instances
    ]
    for part in parts:
        assert orthanc.store(part)["FailedInstancesCount"] == 0
    assert receiver.wait_for_registration(instances[0].series)["ndicom"] == 6
