"""Patient data leave the process only in files and registrations (decision 39).

One conversation with many kinds of errors, and then a search through all output.
"""

from __future__ import annotations

import json
import ssl
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx
import pytest

from tests.support import misfortunes
from tests.support.authority import Authority, found_authority
from tests.support.brokers import NatsServer, RabbitMQ
from tests.support.cube_http import PASSWORD, USERNAME, Cube, Reply
from tests.support.data import PIXEL_DATA, Element, Instance, encode, text_elements
from tests.support.lonk import LonkSubscriber
from tests.support.otlp import Collector, http_collector
from tests.support.raw_peer import (
    EXPLICIT,
    RawPeer,
    Response,
    abort,
    c_store_rq,
    item,
    p_data,
    pdu,
    pdv,
)
from tests.support.receiver import PROJECT, Receiver, wait_until
from tests.support.task_queue import TaskQueue

MARKER: Final = "Zwiebelmarker"
"""Part of every text about the patient."""

BIRTH, STUDY_DATE, OTHER_DATE = "19121203", "20191217", "19340817"

PRIVATE: Final = tuple(
    form.lower()
    for date in (BIRTH, STUDY_DATE, OTHER_DATE)
    for form in (date, f"{date[:4]}-{date[4:6]}-{date[6:]}", MARKER)
)

ERROR_COMMENT = 0x00000902


class Patient(Instance):
    """A patient whose texts hold the marker in every element of a data set that can hold it."""

    def __init__(self, **values: Any) -> None:
        keywords = (
            *("PatientName", "PatientID", "AccessionNumber", "StudyDescription", "ProtocolName"),
            *("OtherPatientIDs", "PatientAddress", "PatientComments", "ReferringPhysicianName"),
            *("InstitutionName", "OperatorsName", "AdditionalPatientHistory", "StudyID"),
        )
        texts = dict.fromkeys(keywords, MARKER) | {"PatientName": f"{MARKER}^{MARKER}=Ü"}
        dates = {"PatientBirthDate": BIRTH, "StudyDate": STUDY_DATE, "SeriesDate": STUDY_DATE}
        odd = {"SeriesDescription": f"{MARKER} axial", "LastMenstrualDate": OTHER_DATE}
        super().__init__(**{**texts, **dates, **odd, **values})

    def elements(self, omit: Any = ()) -> list[Element]:
        marker = MARKER.encode() + b" "
        inner = text_elements({"PatientName": MARKER, "PatientBirthDate": BIRTH})
        more: list[Element] = [
            (0x00081120, "SQ", [inner, inner]),  # ReferencedPatientSequence
            (0x00090010, "LO", marker),
            (0x00091001, "LT", marker),
            (0x00091002, "UN", marker),
        ]
        elements = [each for each in super().elements(omit) if each[0] != PIXEL_DATA]
        pixels: Element = (PIXEL_DATA, "OW", marker * 40)
        return [*sorted([*elements, *more], key=lambda element: element[0]), pixels]


class Scene(NamedTuple):
    receiver: Receiver
    collector: Collector
    progress: LonkSubscriber
    responses: list[Response]
    """Return the C-STORE-RSPs."""


# ---- outputs: one line for each kind ---------------------------------------------------------


def answers_to_peers(scene: Scene) -> str:
    return "\n".join(
        response.text(ERROR_COMMENT)
        for response in scene.responses
        if ERROR_COMMENT in response.elements
    )


def lonk(scene: Scene) -> str:
    subjects = scene.progress.subjects()
    texts = [repr(scene.progress.payloads(subject)) for subject in subjects]
    return "\n".join([*subjects, *texts])


def refusals(scene: Scene) -> str:
    """Return the output of the outbox commands about refused entries."""
    files = (scene.receiver.state / "outbox").glob("*.refused")
    return "\n".join(json.loads(path.read_text())["refusal"]["reason"] for path in files)


def log(scene: Scene) -> str:
    return "\n".join(scene.receiver.lines)


def exports(scene: Scene) -> str:
    return scene.collector.raw.decode("utf-8", "replace")


def page(path: str) -> Callable[[Scene], str]:
    """Return a response of the admin endpoint, or the first event of an event stream."""

    def look(scene: Scene) -> str:
        url = f"http://127.0.0.1:{scene.receiver.admin_port}{path}"
        text = ""
        with httpx.stream("GET", url) as response:
            for line in response.iter_lines():
                text += line + "\n"
                if line == "" and response.headers["content-type"].startswith("text/event-stream"):
                    break
        return text

    return look


WHILE_IT_RUNS: Final[dict[str, Callable[[Scene], str]]] = {
    path: page(path)
    for path in ("/", "/livez", "/readyz", "/metrics", "/status", "/status/history", "/events")
}

IN_THE_END: Final[dict[str, Callable[[Scene], str]]] = {
    "answers to peers": answers_to_peers,
    "progress messages": lonk,
    "refusals": refusals,
    "the log": log,
    "spans and metrics": exports,
}


def assert_nothing_private(said: dict[str, str]) -> None:
    for output, text in said.items():
        assert text, f"{output}: nothing was said"
        lower = text.lower()
        for private in PRIVATE:
            at = lower.find(private)
            assert at < 0, f"{private} in {output}: …{text[max(0, at - 300) : at + 100]}…"


# ---- the conversation ------------------------------------------------------------------------


def store(scene: Scene, peer: RawPeer, instance: Instance, data: bytes | None = None) -> int:
    data = instance.encode(EXPLICIT) if data is None else data
    response = peer.store(instance.sop_instance, data)
    scene.responses.append(response)
    return response.status


def converse(scene: Scene) -> None:
    good = Patient(number=1)
    with associated(scene) as peer:
        assert store(scene, peer, good) == 0
        assert store(scene, peer, Patient(series=good.series, number=2)) == 0
        assert store(scene, peer, Patient(PatientName=f"{MARKER}^{misfortunes.QUOTED}")) == 0
        assert store(scene, peer, Patient(PatientName=f"{MARKER}^{misfortunes.LOST}")) == 0
        for instance in unfortunate():
            store(scene, peer, instance)
        for data in (
            good.encode(EXPLICIT, omit=["StudyInstanceUID"]),
            good.encode(EXPLICIT, omit=["PatientID"]),
            good.encode(EXPLICIT)[:-7],
            MARKER.encode() * 20,
            encode(good.elements(), "1.2.840.10008.1.2.2"),
        ):
            store(scene, peer, good, data)
        without_storage(scene, peer, good)
        peer.release()
    break_off(scene)


def unfortunate() -> Iterator[Instance]:
    """Send instances, many of which are refused. UIDs of studies and series may be shown."""
    for keyword in (
        *("StudyDate", "PatientBirthDate", "PatientSex", "PatientAge"),
        *("SeriesNumber", "InstanceNumber", "SpecificCharacterSet", "SOPInstanceUID"),
        *("SOPClassUID", "Modality"),
    ):
        yield Patient(**{keyword: MARKER})
    yield Patient(StudyDate=f"{STUDY_DATE[:-2]}99")
    yield Patient(PatientName=f"{MARKER}\xff\x1b$B".encode("latin-1"))
    yield Patient(SpecificCharacterSet="ISO_IR 192", PatientName=f"{MARKER}\xff".encode("latin-1"))
    yield Patient(PatientID=f"{MARKER}-{misfortunes.BROKEN}")
    yield Patient(PatientID=f"../{MARKER}")
    yield Patient(StudyDescription=MARKER * 400, SeriesDescription=MARKER * 400)


def without_storage(scene: Scene, peer: RawPeer, patient: Instance) -> None:
    """Replace the patient's folder by a file, whose name is part of the system's error."""
    folder = scene.receiver.path_of(patient.sop_instance).parents[2]
    assert MARKER in folder.name
    away = folder.rename(scene.receiver.root / "away")
    folder.touch()
    assert store(scene, peer, Patient()) != 0
    folder.unlink()
    away.rename(folder)


def associated(scene: Scene) -> RawPeer:
    """Log in with a user name and a password."""
    name = struct.pack(">H", len(MARKER)) + MARKER.encode()
    peer = RawPeer(scene.receiver.port)
    peer.associate(calling=b"MODALITY 1", user_items=item(0x58, b"\2\0" + name + name))
    return peer


def break_off(scene: Scene) -> None:
    """End associations by errors, each with patient data in the last bytes."""
    marker = MARKER.encode() * 50
    data = Patient().encode(EXPLICIT)
    command = c_store_rq("1.2.840.10008.5.1.4.1.1.2", "1.2.3")
    half = p_data(pdv(1, command, command=True, last=True)) + p_data(
        pdv(1, data[:400], command=False, last=False)
    )
    for last_pdu in (
        half + abort(),
        half,
        half + p_data(pdv(1, marker, command=True, last=True)),
        half + pdu(0x0B, marker),
        p_data(pdv(1, marker, command=False, last=True)),
        p_data(pdv(1, marker, command=True, last=True)),
        marker,
    ):
        with associated(scene) as peer:
            peer.send(last_pdu)
            peer.finish_sending()
            while peer.socket.recv(4096):
                pass
    for first_words in (marker, b"GET /" + marker + b" HTTP/1.1\r\n\r\n", pdu(1, marker)):
        with RawPeer(scene.receiver.port) as peer:
            peer.send(first_words)
            peer.finish_sending()
            while peer.socket.recv(4096):
                pass
    with RawPeer(scene.receiver.port) as peer, pytest.raises(AssertionError):
        peer.associate(called=b"NOT US", calling=b"MODALITY 2")


def over_tls(scene: Scene, authority: Authority, stranger: Authority) -> None:
    """Connect without a handshake, with a certificate in a patient's name, and without one."""
    with RawPeer(scene.receiver.tls_port) as peer:
        peer.send(MARKER.encode() * 50)
        peer.finish_sending()
        while peer.socket.recv(4096):
            pass
    for pair in (stranger.issue(MARKER), None):
        context = ssl.create_default_context(cafile=authority.ca)
        if pair is not None:
            context.load_cert_chain(*pair)
        with (
            RawPeer(scene.receiver.tls_port) as peer,
            pytest.raises((ssl.SSLError, ConnectionError)),
            context.wrap_socket(peer.socket, server_hostname="localhost") as secure,
        ):
            secure.recv(1)
    scene.receiver.wait_for_log("peer certificate refused", 30)


# ---- the tests -------------------------------------------------------------------------------


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    misfortunes.install(tmp_path / "site")
    return {
        "PYTHONPATH": f"{tmp_path / 'site'}:{PROJECT / 'src'}",
        "PYTHONDEVMODE": "1",
        "OXIDICOM_LOG_LEVEL": "debug",
        "OXIDICOM_QUARANTINE": "true",
        "OXIDICOM_ADMIN_PORT": "0",
        "OXIDICOM_SCP_CHECK_CALLED_AET": "true",
        "OXIDICOM_DRAIN_TIMEOUT": "1s",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    }


def said_in(scene: Scene) -> dict[str, str]:
    """End the receiver."""
    said = {name: look(scene) for name, look in WHILE_IT_RUNS.items()}
    scene.receiver.stop()
    return said | {name: look(scene) for name, look in IN_THE_END.items()}


UNFORTUNATE = {
    *("instance refused", "association ended", "no association", "report processing failed"),
    *("bug in oxidicom, please report it", "unhandled error in the event loop", "thread died"),
    *("Python warning", "error in a destructor", "Invalid value: …", "wrong arguments …"),
    *("Executing … took … seconds", "registration delivery failed; retrying"),
}
"""Messages in the log that show that the scene took place."""


def quoting(resource: str, body: dict[str, Any]) -> Reply | None:
    """A CUBE whose errors all hold patient data."""
    text = json.dumps(body)
    if misfortunes.QUOTED in text:
        return Reply(400, {"PatientName": [f"{MARKER} is no name"], "detail": text, MARKER: text})
    return None


def test_no_patient_data_leaves_over_http_with_tls(
    tmp_path: Path, nats_server: NatsServer, environment: dict[str, str]
) -> None:
    authority = found_authority(tmp_path / "ours")
    stranger = found_authority(tmp_path / "stranger")
    root = tmp_path / "files"
    root.mkdir()
    with (
        Cube() as cube,
        http_collector() as collector,
        LonkSubscriber(nats_server.url) as progress,
        Receiver(
            root,
            **environment,
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
            OXIDICOM_NATS_ADDRESS=nats_server.address,
            CHRIS_URL=cube.url,
            CHRIS_USERNAME=USERNAME,
            CHRIS_PASSWORD=PASSWORD,
            OXIDICOM_TLS_PORT="0",
            OXIDICOM_TLS_CERT=str(authority.certificate),
            OXIDICOM_TLS_KEY=str(authority.key),
            OXIDICOM_TLS_CLIENT_CA=str(authority.ca),
        ) as receiver,
    ):
        cube.next.append(Reply(500, json.dumps({"detail": MARKER}).encode()))
        cube.choose = quoting
        scene = Scene(receiver, collector, progress, [])
        converse(scene)
        over_tls(scene, authority, stranger)
        receiver.wait_for_log("registration refused; see `oxidicom outbox show`", 30)
        said = said_in(scene)
    assert_nothing_private(said)
    messages = {record["message"] for record in receiver.log()}
    assert messages >= UNFORTUNATE | {"peer certificate refused", "TLS handshake failed"}
    assert all(line.startswith("{") for line in receiver.lines), "every line is a record"


def test_no_patient_data_leaves_by_a_broker_with_two_workers(
    tmp_path: Path, rabbitmq: RabbitMQ, nats_server: NatsServer, environment: dict[str, str]
) -> None:
    root = tmp_path / "files"
    root.mkdir()
    with (
        http_collector() as collector,
        LonkSubscriber(nats_server.url) as progress,
        Receiver(
            root,
            **environment,
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
            OXIDICOM_NATS_ADDRESS=nats_server.address,
            OXIDICOM_CELERY_BROKER=rabbitmq.url,
            OXIDICOM_QUEUE_NAME="private",
            OXIDICOM_WORKERS="2",
        ) as receiver,
    ):
        scene = Scene(receiver, collector, progress, [])
        converse(scene)
        receiver.wait_for_log("registration delivery failed; retrying", 30)
        wait_until(lambda: receiver.outbox() == [], "an empty outbox", 30)
        said = said_in(scene)
        with TaskQueue(rabbitmq.url, "private") as queue:
            tasks = queue.take_all()
    said["headers of tasks"] = json.dumps([(task.headers, task.properties) for task in tasks])
    del said["refusals"]
    assert any(MARKER in json.dumps(task.body) for task in tasks), "registrations hold patient data"
    assert_nothing_private(said)
    assert {record["message"] for record in receiver.log()} >= UNFORTUNATE
