"""The whole receiver registers over HTTP, in the first generation's environment (decisions 40–43).

Expectations are written by hand from the first generation's behaviour.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oxidicom.ulid import uuid_of
from tests.support.brokers import NatsServer
from tests.support.cube_http import HANG, PASSWORD, USERNAME, Cube, Reply
from tests.support.data import Instance
from tests.support.lonk import DONE, LonkSubscriber, subject
from tests.support.pacs import answering, scripted_pacs
from tests.support.raw_peer import EXPLICIT, RawPeer
from tests.support.receiver import Receiver, wait_until

METADATA = "SERVICES/PACS/org.fnndsc.oxidicom/"


@pytest.fixture
def cube() -> Iterator[Cube]:
    with Cube() as cube:
        yield cube


def first_generation(root: Path, url: str, **more: str | None) -> Receiver:
    """Return that environment with a free port, JSON logs and a shorter settle time."""
    environment: dict[str, str | None] = {
        "OXIDICOM_FILES_ROOT": None,
        "OXIDICOM_LISTENER_PORT": None,
        "OXIDICOM_SERIES_SETTLE": "300ms",
        "CHRIS_FILES_ROOT": str(root),
        "CHRIS_URL": url,
        "CHRIS_USERNAME": USERNAME,
        "CHRIS_PASSWORD": PASSWORD,
        "CHRIS_SCP_AET": "ChRIS",
        "PORT": "0",
    }
    return Receiver(root, **environment | more)


def send(receiver: Receiver, *instances: Instance, calling: bytes = b"PACS ONE") -> None:
    with RawPeer(receiver.port) as peer:
        peer.associate(calling=calling)
        for instance in instances:
            response = peer.store(instance.sop_instance, instance.encode(EXPLICIT))
            assert response.status == 0
        peer.release()


def association_of(receiver: Receiver) -> str:
    """Return the UUID of the only association so far."""
    return uuid_of(receiver.wait_for_log("association released")["association_ulid"])


def no_entry(receiver: Receiver) -> None:
    wait_until(lambda: receiver.outbox() == [], "an empty outbox")


@pytest.fixture
def series() -> list[Instance]:
    first = Instance(PatientBirthDate=None, ProtocolName="")
    rest = (Instance(series=first.series, number=number) for number in (2, 3))
    return [first, *rest]


def test_instances_and_custom_metadata_are_registered(
    tmp_path: Path, cube: Cube, series: list[Instance]
) -> None:
    first = series[0]
    with first_generation(tmp_path, cube.url) as receiver:
        send(receiver, *series, first)
        cube.wait_for_taken(5)
        no_entry(receiver)
        association = association_of(receiver)
        folder = receiver.path_of(first.sop_instance).parent.relative_to(tmp_path).as_posix()
        of_series = {
            "PatientID": "P1",
            "StudyDate": "2024-01-31",
            "StudyInstanceUID": f"{first.series}.0",
            "SeriesInstanceUID": first.series,
        }
        of_instances = {
            **of_series,
            "pacs_name": "PACS_ONE",
            "PatientName": "Doe^Jane",
            "PatientAge": 16071,
            "PatientSex": "F",
            "AccessionNumber": "ACC1",
            "Modality": "CT",
            "StudyDescription": "Chest",
            "SeriesDescription": "Lung",
        }
        expected: dict[str, dict[str, Any]] = {
            f"{folder}/{number:04}-{instance.sop_instance}.dcm": of_instances
            for number, instance in enumerate(series, 1)
        }
        about = f"{METADATA}{folder}/{association}"
        for key, value in (
            ("NumberOfSeriesRelatedInstances", "unknown"),
            ("OxidicomAttemptedPushCount", "4"),
        ):
            expected[f"{about}/{key}={value}"] = {
                **of_series,
                "pacs_name": "org.fnndsc.oxidicom",
                "ProtocolName": key,
                "SeriesDescription": value,
            }
        assert folder.startswith("SERVICES/PACS/PACS_ONE/P1-Doe_Jane-/Chest-ACC1-20240131/")
        assert {taken.resource for taken in cube.taken} == {"pacsfiles/"}
        assert {taken.body["path"]: taken.body for taken in cube.taken} == {
            path: {"path": path, **body} for path, body in expected.items()
        }
        for taken in (each for each in cube.taken if each.body["path"].endswith(".dcm")):
            assert list(taken.body)[:7] == [
                *("path", "PatientID", "StudyDate", "StudyInstanceUID", "SeriesInstanceUID"),
                *("pacs_name", "PatientName"),
            ]
        assert receiver.paths() == sorted(expected)
        assert cube.paths[-1] == f"{about}/OxidicomAttemptedPushCount=4"
        metadata = [path for path in receiver.files() if METADATA in path.as_posix()]
        assert [path.stat().st_size for path in metadata] == [0, 0]
        assert len(cube.requests) == 5, "nothing is registered twice"


def test_the_number_that_the_pacs_has_is_registered(
    tmp_path: Path, cube: Cube, series: list[Instance]
) -> None:
    with (
        scripted_pacs(answering(7)) as pacs,
        first_generation(
            tmp_path, cube.url, CHRIS_PACS_ADDRESS=f"PACS ONE=127.0.0.1:{pacs.port}"
        ) as receiver,
    ):
        send(receiver, *series)
        cube.wait_for_taken(5)
        no_entry(receiver)
        metadata = [path.rpartition("/")[2] for path in cube.paths if path.startswith(METADATA)]
        assert metadata == ["NumberOfSeriesRelatedInstances=7", "OxidicomAttemptedPushCount=3"]
        assert receiver.wait_for_log("series complete")["short"] == 4


def test_a_series_is_one_registration(tmp_path: Path, cube: Cube, series: list[Instance]) -> None:
    first = series[0]
    with first_generation(tmp_path, cube.url, OXIDICOM_HTTP_REGISTER="series") as receiver:
        send(receiver, *series, first)
        (taken,) = cube.wait_for_taken(1)
        no_entry(receiver)
        folder = receiver.path_of(first.sop_instance).parent.relative_to(tmp_path).as_posix()
        assert taken.resource == "pacs/series/"
        assert list(taken.body.items()) == [
            ("PatientID", "P1"),
            ("StudyDate", "2024-01-31"),
            ("StudyInstanceUID", f"{first.series}.0"),
            ("SeriesInstanceUID", first.series),
            ("pacs_name", "PACS_ONE"),
            ("path", folder),
            ("ndicom", 3),
            ("PatientName", "Doe^Jane"),
            ("PatientAge", 16071),
            ("PatientSex", "F"),
            ("AccessionNumber", "ACC1"),
            ("Modality", "CT"),
            ("StudyDescription", "Chest"),
            ("SeriesDescription", "Lung"),
        ]
        assert len(receiver.files()) == 3, "no custom metadata"
    assert len(cube.requests) == 1


def test_instances_are_registered_before_their_series_is_complete(
    tmp_path: Path, cube: Cube, series: list[Instance]
) -> None:
    with first_generation(tmp_path, cube.url) as receiver, RawPeer(receiver.port) as peer:
        peer.associate()
        for number, instance in enumerate(series, 1):
            peer.store(instance.sop_instance, instance.encode(EXPLICIT))
            cube.wait_for_taken(number)
        assert not any("org.fnndsc" in path for path in cube.paths)
        peer.release()
        cube.wait_for_taken(5)
        assert len(cube.requests) == 5


def test_several_workers_register_every_instance(tmp_path: Path, cube: Cube) -> None:
    uid = Instance().series
    instances = [Instance(series=uid, number=number) for number in range(1, 9)]
    more = {"OXIDICOM_WORKERS": "2", "OXIDICOM_SERIES_SETTLE": None}  # the default is one second
    with first_generation(tmp_path, cube.url, **more) as receiver:
        for instance in instances:
            send(receiver, instance)
        cube.wait_for_taken(10)
        no_entry(receiver)
    assert sum(path.endswith(".dcm") for path in cube.paths) == 8
    assert cube.paths[-1].endswith("/OxidicomAttemptedPushCount=8")


@pytest.mark.parametrize("register", ["instance", "series"])
def test_an_outage_and_a_kill_lose_nothing(
    tmp_path: Path, cube: Cube, series: list[Instance], register: str
) -> None:
    cube.always = Reply(503)
    more = {"OXIDICOM_HTTP_REGISTER": register, "CHRIS_HTTP_RETRIES": "1"}
    with first_generation(tmp_path, cube.url, **more) as receiver:
        send(receiver, *series)
        receiver.wait_for_outbox(1)
        receiver.kill()
        assert cube.taken == []
        cube.always = None
        receiver.start()
        taken = cube.wait_for_taken(5 if register == "instance" else 1)
        no_entry(receiver)
    assert len(taken) == (5 if register == "instance" else 1)
    if register == "instance":
        (attempted,) = (path for path in cube.paths if "OxidicomAttempted" in path)
        assert attempted.endswith("=3")


def test_a_receiver_killed_during_registration_registers_the_rest(
    tmp_path: Path, cube: Cube, series: list[Instance]
) -> None:
    """What CUBE has already, and a metadata file that exists already, cause no error."""
    sent = series[1]

    def choose(resource: str, body: dict[str, Any]) -> Reply | None:
        return Reply(500) if sent.sop_instance in body["path"] else None

    cube.choose = choose
    with first_generation(tmp_path, cube.url, CHRIS_HTTP_RETRIES="1") as receiver:
        send(receiver, *series)
        cube.wait_for_taken(2)
        receiver.wait_for_outbox(1)
        receiver.kill()
        cube.choose = lambda resource, body: None
        receiver.start()
        cube.wait_for_taken(5)
        no_entry(receiver)
    assert len(set(cube.paths)) == len(cube.paths) == 5


def test_a_receiver_killed_during_an_association_registers_what_it_stored(
    tmp_path: Path, cube: Cube, series: list[Instance]
) -> None:
    cube.always = Reply(503)
    with first_generation(tmp_path, cube.url, OXIDICOM_INCOMPLETE_SETTLE="0s") as receiver:
        with RawPeer(receiver.port) as peer:
            peer.associate()
            peer.store(series[0].sop_instance, series[0].encode(EXPLICIT))
            receiver.kill()
        cube.always = None
        receiver.start()
        cube.wait_for_taken(3)
        no_entry(receiver)
        (about,) = {path.split("/")[-2] for path in cube.paths if "org.fnndsc" in path}
        assert uuid.UUID(about)


def test_a_refused_series_is_kept_and_others_are_registered(
    tmp_path: Path, cube: Cube, series: list[Instance]
) -> None:
    refused = series[1].sop_instance

    def choose(resource: str, body: dict[str, Any]) -> Reply | None:
        if refused in body["path"]:
            return Reply(400, {"PatientName": ["Doe^Jane is not wanted"]})
        return None

    cube.choose = choose
    with first_generation(tmp_path, cube.url) as receiver:
        send(receiver, *series)
        cube.wait_for_taken(4)
        send(receiver, Instance())
        cube.wait_for_taken(7)
        no_entry(receiver)
        kept = list((receiver.state / "outbox").glob("*.refused"))
        assert len(kept) == 1
        text = "\n".join(receiver.lines)
        assert "1 of 3 instances: CUBE answers 400, at fault: PatientName" in text
        assert "Doe" not in text
    assert not any(refused in path for path in cube.paths)


def test_lonk_done_follows_the_confirmation(
    tmp_path: Path, cube: Cube, nats_server: NatsServer, series: list[Instance]
) -> None:
    uid = series[0].series
    with (
        LonkSubscriber(nats_server.url) as lonk,
        first_generation(tmp_path, cube.url, OXIDICOM_NATS_ADDRESS=nats_server.address) as receiver,
    ):
        send(receiver, *series, calling=b"PACS")
        payloads = lonk.wait_for(subject("PACS", uid), DONE)
        assert len(cube.taken) == 5
        assert payloads[-1] == DONE


def test_the_log_holds_no_patient_data(tmp_path: Path, cube: Cube, series: list[Instance]) -> None:
    cube.next.extend([Reply(500, b"Doe^Jane"), Reply(403, {"x": "P1-Doe"}), Reply(429)])
    with first_generation(
        tmp_path, cube.url, OXIDICOM_LOG_LEVEL="debug", CHRIS_HTTP_RETRIES="2"
    ) as receiver:
        send(receiver, *series)
        cube.wait_for_taken(5)
        no_entry(receiver)
    text = "\n".join(receiver.lines)
    assert "series complete" in text
    for word in ("Doe", "Lung", "Chest-", "20240131", "P1-", PASSWORD):
        assert word not in text


@pytest.mark.parametrize("register", ["instance", "series"])
def test_a_cube_that_hangs_does_not_delay_the_shutdown(
    tmp_path: Path, cube: Cube, series: list[Instance], register: str
) -> None:
    cube.always = HANG
    with first_generation(tmp_path, cube.url, OXIDICOM_HTTP_REGISTER=register) as receiver:
        send(receiver, *series)
        wait_until(lambda: bool(cube.requests), "a request")
        receiver.stop(timeout=10)
        assert len(receiver.outbox()) == 1
