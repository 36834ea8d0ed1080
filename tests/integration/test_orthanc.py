"""Orthanc sends stored series to the receiver, as a PACS does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest

from tests.support.data import Instance, part_10
from tests.support.orthanc import ORTHANC, Orthanc
from tests.support.raw_peer import EXPLICIT
from tests.support.receiver import Receiver

pytestmark = pytest.mark.skipif(ORTHANC is None, reason="Orthanc is not installed")


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    with Receiver(tmp_path_factory.mktemp("files"), OXIDICOM_SERIES_SETTLE="1s") as receiver:
        yield receiver


@pytest.fixture(scope="module")
def orthanc(receiver: Receiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    folder = tmp_path_factory.mktemp("orthanc")
    with Orthanc(folder, receiver.port).running() as orthanc:
        yield orthanc


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


def test_a_series_of_orthanc_is_stored_and_registered(
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


def test_two_series_of_orthanc_at_once_are_registered(
    orthanc: Orthanc, receiver: Receiver, tmp_path: Path
) -> None:
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


def test_a_series_that_orthanc_splits_is_registered_once(
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
