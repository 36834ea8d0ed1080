"""The sample studies go from Orthanc to the whole receiver, and on to RabbitMQ and NATS.

What must come is worked out here from the files that were built, by rules written out by hand, not
by any code of ours.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pydicom
import pytest
from pydicom import Dataset
from pynetdicom import AE, evt
from pynetdicom.presentation import StoragePresentationContexts
from pynetdicom.transport import ThreadedAssociationServer

from samples import __main__ as command
from samples.folder import MANIFEST, BuiltSeries, build, read_manifest
from samples.orthanc import Orthanc, find_orthanc
from samples.push import WAYS, load, push
from samples.receiver import Destination
from samples.study_set import CT, SMALL, US
from tests.support.brokers import NatsServer, RabbitMQ
from tests.support.lonk import DONE, LonkSubscriber, count, subject
from tests.support.ports import free_port
from tests.support.receiver import Receiver
from tests.support.task_queue import TaskMessage, TaskQueue

pytestmark = pytest.mark.skipif(find_orthanc() is None, reason="Orthanc is not installed")

CALLING = {"store": "PACS_STORE", "move": "PACS_MOVE"}
PUSHED = (CT, US)
MASK = 2**64 - 1


# ---- what must come, by hand -------------------------------------------------------------------


def seahash(data: bytes) -> int:
    """As its author describes it (ticki, SeaHash, 2016)."""

    def diffuse(x: int) -> int:
        x = x * 0x6EED0E9DA4D94A4F & MASK
        x ^= (x >> 32) >> (x >> 60)
        return x * 0x6EED0E9DA4D94A4F & MASK

    lanes = [0x16F11FE89B0D677C, 0xB480A793D8E6C86C, 0x6FE2E5AAF078EBC9, 0x14F994A4C5259381]
    for at in range(0, len(data), 8):
        word = int.from_bytes(data[at : at + 8], "little")
        lanes = [*lanes[1:], diffuse(lanes[0] ^ word)]
    a, b, c, d = lanes
    return diffuse(a ^ b ^ c ^ d ^ len(data))


def component(text: object) -> str:
    """Every run of characters but letters, digits, dot and hyphen is one underscore."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", str(text))


def expected_folder(first: Dataset, calling: str) -> str:
    patient = "-".join(map(component, (first.PatientID, first.PatientName, first.PatientBirthDate)))
    study = "-".join(
        map(component, (first.StudyDescription, first.AccessionNumber, first.StudyDate))
    )
    short = f"{seahash(first.SeriesInstanceUID.encode()):x}"[:7]
    series = f"{int(first.SeriesNumber):05}-{component(first.SeriesDescription)}-{short}"
    return f"SERVICES/PACS/{calling}/{patient}/{study}/{series}"


def expected_name(instance: Dataset) -> str:
    return f"{int(instance.InstanceNumber):04}-{instance.SOPInstanceUID}.dcm"


def expected_kwargs(first: Dataset, calling: str, ndicom: int) -> dict[str, Any]:
    day = first.StudyDate
    assert first.PatientAge.endswith("Y")
    return {
        "PatientID": first.PatientID,
        "StudyDate": f"{day[:4]}-{day[4:6]}-{day[6:]}",
        "StudyInstanceUID": first.StudyInstanceUID,
        "SeriesInstanceUID": first.SeriesInstanceUID,
        "pacs_name": calling,
        "path": expected_folder(first, calling),
        "ndicom": ndicom,
        "PatientName": str(first.PatientName),
        "PatientBirthDate": first.PatientBirthDate,
        "PatientAge": round(int(first.PatientAge[:-1]) * 365.24),
        "PatientSex": first.PatientSex,
        "AccessionNumber": first.AccessionNumber,
        "Modality": first.Modality,
        "ProtocolName": first.ProtocolName,
        "StudyDescription": first.StudyDescription,
        "SeriesDescription": first.SeriesDescription,
    }


# ---- what came ---------------------------------------------------------------------------------


class Arrived(NamedTuple):
    calling: str
    topic: str
    root: Path
    paths: list[str]
    tasks: list[TaskMessage]
    progress: dict[str, list[bytes]]
    """Payloads by subject, in order."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    for _ in build(folder, SMALL):
        pass
    return folder


@pytest.fixture(scope="module")
def pushed(folder: Path) -> list[BuiltSeries]:
    wanted = {series.series_instance_uid for series in PUSHED}
    return [one for one in read_manifest(folder) if one.series_instance_uid in wanted]


@pytest.fixture(scope="module")
def orthanc(
    folder: Path, pushed: list[BuiltSeries], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Orthanc]:
    with Orthanc(tmp_path_factory.mktemp("orthanc")) as orthanc:
        load(orthanc, folder, pushed)
        yield orthanc


@pytest.fixture(scope="module", params=list(WAYS))
def arrived(
    request: pytest.FixtureRequest,
    orthanc: Orthanc,
    pushed: list[BuiltSeries],
    rabbitmq: RabbitMQ,
    nats_server: NatsServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Arrived:
    """All that two series pushed at once leave behind, once the receiver has ended."""
    way, calling = request.param, CALLING[request.param]
    root = tmp_path_factory.mktemp(way)
    topic = f"sample-{way}"
    subjects = [subject(calling, one.series_instance_uid, topic) for one in pushed]
    receiver = Receiver(
        root,
        OXIDICOM_CELERY_BROKER=rabbitmq.url,
        OXIDICOM_QUEUE_NAME=topic,
        OXIDICOM_NATS_ADDRESS=nats_server.address,
        OXIDICOM_ROOT_SUBJECT=topic,
        OXIDICOM_PROGRESS_INTERVAL="0s",
        OXIDICOM_SERIES_SETTLE="500ms",
    )
    with LonkSubscriber(nats_server.url, f"{topic}.>") as lonk:
        with receiver:
            receiver.wait_for_log("connected to NATS")
            assert push_at_once(orthanc, receiver, pushed, way) == [(0, "")] * len(pushed)
            for one in subjects:
                lonk.wait_for(one)
        # It has ended, so whatever it had to tell is told.
        assert lonk.subjects() == set(subjects)
        progress = {one: lonk.payloads(one) for one in subjects}
    with TaskQueue(rabbitmq.url, topic) as queue:
        tasks = queue.take_all()
    return Arrived(calling, topic, root, receiver.paths(), tasks, progress)


def push_at_once(
    orthanc: Orthanc, receiver: Receiver, series: list[BuiltSeries], way: str
) -> list[tuple[int, str]]:
    """Failures and their reasons, of a push of each series in a thread of its own."""
    destination = Destination("127.0.0.1", receiver.port)
    orthanc.send_to(destination)
    together = threading.Barrier(len(series))
    outcomes: list[tuple[int, str]] = []

    def send(one: BuiltSeries) -> None:
        together.wait(10)
        _, failed, trouble = push(orthanc, destination, one, WAYS[way])
        outcomes.append((failed, trouble))

    threads = [threading.Thread(target=send, args=[one]) for one in series]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def data_sets(folder: Path, series: BuiltSeries) -> list[Dataset]:
    return [pydicom.dcmread(folder / instance.path) for instance in series.instances]


def test_every_instance_is_where_the_rules_say_and_what_was_built(
    arrived: Arrived, folder: Path, pushed: list[BuiltSeries]
) -> None:
    expected: dict[str, Dataset] = {}
    for series in pushed:
        built = data_sets(folder, series)
        place = expected_folder(built[0], arrived.calling)
        expected |= {f"{place}/{expected_name(one)}": one for one in built}
    assert arrived.paths == sorted(expected)
    for path, built_one in expected.items():
        stored = pydicom.dcmread(arrived.root / path)
        assert stored == built_one
        assert stored.file_meta.TransferSyntaxUID == built_one.file_meta.TransferSyntaxUID
        assert stored.file_meta.SourceApplicationEntityTitle == arrived.calling


def test_names_of_the_japanese_patient(arrived: Arrived) -> None:
    """The rules once more, worked out on paper."""
    series = (
        f"SERVICES/PACS/{arrived.calling}/SAMPLE-0003-Yamada_Tarou_-19541201/"
        "_Echocardiography-SMP26-00019-20260114/00001-Apical_4_chambers-"
    )
    paths = [path.removeprefix(series) for path in arrived.paths if "SAMPLE-0003" in path]
    assert [path[7:17] for path in paths] == [f"/{n:04}-2.25" for n in (1, 2, 3, 4)]
    (task,) = (one for one in arrived.tasks if one.kwargs["PatientID"] == "SAMPLE-0003")
    assert task.kwargs["PatientName"] == "Yamada^Tarou=山田^太郎=やまだ^たろう"
    assert task.kwargs["StudyDescription"] == "心臓超音波 Echocardiography"
    assert task.kwargs["PatientAge"] == 25932


def test_each_series_is_registered_once(
    arrived: Arrived, folder: Path, pushed: list[BuiltSeries]
) -> None:
    expected = [
        expected_kwargs(data_sets(folder, one)[0], arrived.calling, len(one.instances))
        for one in pushed
    ]

    def by_series(kwargs: dict[str, Any]) -> str:
        return str(kwargs["SeriesInstanceUID"])

    assert sorted((task.kwargs for task in arrived.tasks), key=by_series) == sorted(
        expected, key=by_series
    )
    assert {task.headers["task"] for task in arrived.tasks} == {
        "pacsfiles.tasks.register_pacs_series"
    }


def test_progress_rises_to_the_final_count_and_is_done(
    arrived: Arrived, pushed: list[BuiltSeries]
) -> None:
    for series in pushed:
        told = arrived.progress[subject(arrived.calling, series.series_instance_uid, arrived.topic)]
        *counts, last = told
        assert last == DONE
        assert {payload[:1] for payload in counts} == {b"\1"}
        numbers = [int.from_bytes(payload[1:], "little") for payload in counts]
        assert numbers == sorted(numbers)
        assert counts[0] == count(1)
        assert counts[-1] == count(len(series.instances))


# ---- the command -------------------------------------------------------------------------------


def servers() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


def test_run_pushes_everything_by_both_ways(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = servers()
    target = tmp_path / "sample"
    assert command.main(["run", str(target), "--small"]) == 0
    assert servers() == before
    said = capsys.readouterr().out
    assert f"Built 12 series, 53 instances, 2 MB in {target}/studies" in said
    for title in ("C-STORE from PACS_STORE", "C-MOVE from PACS_MOVE"):
        assert title in said
    totals = [line.split() for line in said.splitlines() if line.startswith("    12 series")]
    assert [(line[2], line[-1]) for line in totals] == [("53", "53")] * 2
    assert "24 registrations wait in its outbox" in said
    assert sorted(path.name for path in target.iterdir()) == [
        *("manifest.json", "received", "receiver.log", "studies")
    ]
    assert len(list((target / "received").rglob("*.dcm"))) == 2 * 53


@pytest.fixture(scope="module")
def chest(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the CT alone, which is pushed in no time."""
    chest = tmp_path_factory.mktemp("chest") / "sample"
    shutil.copytree(folder, chest)
    entries = json.loads((chest / MANIFEST).read_text())
    (chest / MANIFEST).write_text(json.dumps(entries[:1]))
    return chest


@pytest.fixture
def same_orthanc(orthanc: Orthanc, monkeypatch: pytest.MonkeyPatch) -> None:
    """For commands too, which else start their own."""
    monkeypatch.setattr(command, "Orthanc", lambda _: contextlib.nullcontext(orthanc))


@pytest.fixture
def liar() -> Iterator[ThreadedAssociationServer]:
    """Says Success and forgets."""
    entity = AE("ChRIS")
    for context in StoragePresentationContexts:
        entity.add_supported_context(context.abstract_syntax, pydicom.uid.AllTransferSyntaxes)
    server = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, lambda _: 0x0000)]
    )
    yield server
    server.shutdown()


@pytest.mark.usefixtures("same_orthanc")
def test_what_is_acknowledged_but_not_there_is_seen(
    chest: Path,
    liar: ThreadedAssociationServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    port = liar.server_address[1]
    arguments = ["push", str(chest), "--to", f"127.0.0.1:{port}", "--way", "move"]
    assert command.main([*arguments, "--root", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "Lung 1.0 B30f by C-MOVE: acknowledged, but 24 of 24 missing" in said
    assert "0, 24 missing" in said


@pytest.mark.usefixtures("same_orthanc")
def test_a_receiver_that_is_not_there(chest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["push", str(chest), "--to", f"127.0.0.1:{free_port()}"]) == 1
    said = capsys.readouterr().out
    assert "Lung 1.0 B30f by C-STORE: Orthanc, POST /modalities/receiver/store: " in said
    assert "Lung 1.0 B30f by C-MOVE: the PACS cannot send to ChRIS: " in said
