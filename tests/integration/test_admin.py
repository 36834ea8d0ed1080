"""The admin endpoint of a whole receiver, in one process and in several (OXIDICOM_WORKERS)."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from oxidicom.admin.liveness import RECEIVER_DEAD_AFTER_S, Liveness
from oxidicom.admin.model import Readiness, ReceiverStatus
from oxidicom.app.admin import AdminEndpoint
from oxidicom.settings import load
from tests.conftest import StartRedis
from tests.support.brokers import NatsServer, RabbitMQ
from tests.support.data import Instance
from tests.support.ports import free_port
from tests.support.raw_peer import EXPLICIT, RawPeer, c_store_rq, p_data, pdv
from tests.support.receiver import PROJECT, Receiver, wait_until
from tests.support.storage_faults import storage_faults
from tests.support.storing import store

BOTH = pytest.mark.parametrize("workers", ["1", "2"])

PATIENT: dict[str, Any] = {
    "PatientName": "Zzyzx^Quuxina",
    "PatientID": "HOSP-471147",
    "PatientBirthDate": "19770717",
    "PatientAge": "047Y",
    "StudyDate": "20110913",
    "AccessionNumber": "ACC-815815",
    "StudyDescription": "Kneebone^secret",
    "SeriesDescription": "Shinbone secret",
    "ProtocolName": "Hipbone secret",
}
FORMS = {*PATIENT.values(), "Zzyzx", "Quuxina", "1977-07-17", "2011-09-13", "Kneebone"}
BODIES = ("/", "/livez", "/readyz", "/metrics", "/status", "/status/history")


class Page:
    """A client of the admin endpoint of a receiver."""

    def __init__(self, receiver: Receiver) -> None:
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{receiver.admin_port}", timeout=20)

    def get(self, path: str) -> httpx.Response:
        return self.client.get(path)

    def ready(self) -> tuple[int, dict[str, str]]:
        """Return the status code, and the states of the checks by name."""
        answer = self.get("/readyz")
        readiness = msgspec.json.decode(answer.content, type=Readiness)
        assert readiness.ready == (answer.status_code == 200)
        return answer.status_code, {check.name: check.state for check in readiness.checks}

    def status(self) -> ReceiverStatus:
        return msgspec.json.decode(self.get("/status").content, type=ReceiverStatus)

    def wait(self, condition: Callable[[ReceiverStatus], bool], what: str) -> ReceiverStatus:
        wait_until(lambda: condition(self.status()), what, 90)
        return self.status()

    def wait_for_state(self, check: str, state: str) -> None:
        wait_until(lambda: self.ready()[1].get(check) == state, f"{check} to be {state}", 90)

    def frame(self) -> str:
        """Return the first event."""
        with self.client.stream("GET", "/events") as stream:
            return next(line for line in stream.iter_lines() if line.startswith("data: "))


@contextmanager
def running(root: Path, **environment: str | None) -> Iterator[tuple[Receiver, Page]]:
    root.mkdir(exist_ok=True)
    with Receiver(root, OXIDICOM_ADMIN_PORT="0", **environment) as receiver:
        page = Page(receiver)
        with page.client:
            yield receiver, page


def abort_amid(receiver: Receiver) -> None:
    with RawPeer(receiver.port) as peer:
        peer.associate()


@BOTH
def test_the_status_shows_events_without_patient_data(tmp_path: Path, workers: str) -> None:
    series = Instance().series
    instances = [Instance(series=series, number=number, **PATIENT) for number in (1, 2, 3)]
    with running(tmp_path, OXIDICOM_WORKERS=workers) as (receiver, page):
        page.wait_for_state("storage", "ok")
        assert page.ready()[0] == 200
        assert page.get("/livez").text == "ok"
        with RawPeer(receiver.port) as peer:
            peer.associate(calling=b"CT1")
            for instance in instances:
                assert store(peer, instance).status == 0
            unlike = peer.store("1.2.3", instances[0].encode(EXPLICIT))
            assert unlike.status != 0
            status = page.wait(lambda status: status.totals.refused == 1, "all reports")
            (association,) = status.associations
            assert association.calling_aet == "CT1"
            assert association.peer == f"127.0.0.1:{peer.socket.getsockname()[1]}"
            assert (association.stored, association.refused) == (3, 1)
            assert (association.worker is None) == (workers == "1")
            (one,) = status.series
            assert (one.series_instance_uid, one.modality, one.received, one.state) == (
                series,
                "CT",
                3,
                "receiving",
            )
            (failure,) = status.failures
            assert (failure.kind, failure.who) == ("instance", "CT1 127.0.0.1")
            assert failure.status == f"{unlike.status:04X}H"
            told = [page.get(path).text for path in BODIES] + [page.frame()]
            peer.release()
        abort_amid(receiver)
        status = page.wait(
            lambda status: bool(status.recent_series) and status.totals.associations_aborted == 1,
            "the series to be complete",
        )
        (recent,) = status.recent_series
        assert (recent.received, recent.state) == (3, "waiting")
        assert (status.associations, status.series) == ([], [])
        assert {each.kind for each in status.failures} == {"association", "instance"}
        told += [page.get(path).text for path in BODIES] + [page.frame()]
    for body in told:
        assert [value for value in FORMS if value in body] == []


@BOTH
def test_the_endpoint_shows_the_drain_and_ends_last(tmp_path: Path, workers: str) -> None:
    instance = Instance(pixels=200_000)
    data_set = instance.encode(EXPLICIT)
    with running(tmp_path, OXIDICOM_WORKERS=workers) as (receiver, page):
        page.wait_for_state("storage", "ok")
        with (
            RawPeer(receiver.port) as peer,
            page.client.stream("GET", "/events") as stream,
        ):
            lines = stream.iter_lines()
            assert next(lines) == ": "
            peer.associate()
            command = c_store_rq(instance.sop_class, instance.sop_instance)
            peer.send(p_data(pdv(1, command, command=True, last=True)))
            peer.send(p_data(pdv(1, data_set[:9000], command=False, last=False)))
            receiver.signal()
            receiver.wait_for_log("shutting down")
            page.wait_for_state("draining", "failed")
            assert page.get("/readyz").status_code == 503
            assert page.get("/livez").status_code == 200
            peer.send(p_data(pdv(1, data_set[9000:], command=False, last=True)))
            assert peer.response().status == 0
            peer.release()
            # Until the regular end of the stream; an incomplete one would raise.
            *_, last = (line for line in lines if line.startswith("data: "))
            status = msgspec.json.decode(last.removeprefix("data: "), type=ReceiverStatus)
            assert not status.ready
        assert receiver.wait() == 0


@BOTH
def test_the_endpoint_responds_while_storage_hangs(tmp_path: Path, workers: str) -> None:
    """With one process, its loop hangs as well: the instance is written on it."""
    root = tmp_path / "files"
    root.mkdir()
    with storage_faults(tmp_path, root) as faults:
        faults.begin(call="open", below=".oxidicom/tmp/", hold=True)
        with running(
            root,
            OXIDICOM_WORKERS=workers,
            OXIDICOM_WRITE_MODE="inline" if workers == "1" else "threads",
            **faults.environment,
        ) as (receiver, page):
            faults.wait_until_held()
            with RawPeer(receiver.port) as peer:
                peer.associate()
                instance = Instance()
                command = c_store_rq(instance.sop_class, instance.sop_instance)
                peer.send(p_data(pdv(1, command, command=True, last=True)))
                data_set = instance.encode(EXPLICIT)
                peer.send(p_data(pdv(1, data_set, command=False, last=True)))
                faults.wait_until_held(2)
                page.wait(lambda status: "not responding" in detail(status, "storage"), "the hang")
                assert page.ready()[0] == 503
                assert [page.get(path).status_code for path in ("/livez", "/metrics")] == [200, 200]
                assert page.frame()
                faults.end()
                assert peer.response().status == 0
                peer.release()
            page.wait_for_state("storage", "ok")
            assert page.ready()[0] == 200


def detail(status: ReceiverStatus, name: str) -> str:
    return next(check.detail for check in status.checks if check.name == name)


def test_unreachable_brokers_are_degraded(tmp_path: Path, private_redis: StartRedis) -> None:
    redis = private_redis()
    instance = Instance()
    with running(
        tmp_path / "files",
        OXIDICOM_CELERY_BROKER=f"{redis.url}/0",
        OXIDICOM_NATS_ADDRESS=f"127.0.0.1:{free_port()}",
    ) as (receiver, page):
        page.wait_for_state("storage", "ok")
        page.wait_for_state("broker", "degraded")
        page.wait_for_state("nats", "degraded")
        assert page.ready()[0] == 200
        with RawPeer(receiver.port) as peer:
            peer.associate()
            assert store(peer, instance).status == 0
            peer.release()
        status = page.wait(
            lambda status: [each.state for each in status.recent_series] == ["waiting"], "waiting"
        )
        assert status.outbox.pending == 1
        assert "broker" in {failure.kind for failure in status.failures}
        with redis:
            page.wait_for_state("broker", "ok")
            status = page.wait(
                lambda status: [each.state for each in status.recent_series] == ["registered"],
                "its registration",
            )
            assert (status.outbox.pending, status.totals.series_registered) == (0, 1)


def test_a_broker_that_hangs_is_degraded(tmp_path: Path, private_redis: StartRedis) -> None:
    with private_redis() as redis:
        redis.freeze()
        with running(tmp_path / "files", OXIDICOM_CELERY_BROKER=f"{redis.url}/0") as (_, page):
            page.wait_for_state("storage", "ok")
            page.wait_for_state("broker", "degraded")
            assert "not responding for" in detail(page.status(), "broker")
            assert page.ready()[0] == 200
            redis.thaw()
            page.wait_for_state("broker", "ok")


def test_reachable_brokers_are_ok(
    tmp_path: Path, rabbitmq: RabbitMQ, nats_server: NatsServer
) -> None:
    with running(
        tmp_path,
        OXIDICOM_WORKERS="2",
        OXIDICOM_CELERY_BROKER=rabbitmq.url,
        OXIDICOM_QUEUE_NAME="admin",
        OXIDICOM_NATS_ADDRESS=nats_server.url,
    ) as (receiver, page):
        page.wait_for_state("nats", "ok")
        page.wait_for_state("broker", "ok")
        with RawPeer(receiver.port) as peer:
            peer.associate()
            assert store(peer, Instance()).status == 0
            peer.release()
        page.wait(
            lambda status: [each.state for each in status.recent_series] == ["registered"],
            "its registration",
        )


@BOTH
def test_an_admin_port_in_use_is_an_operator_error(tmp_path: Path, workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        receiver = Receiver(tmp_path, OXIDICOM_ADMIN_PORT=str(port), OXIDICOM_WORKERS=workers)
        receiver.launch()
        assert receiver.wait() == 1
    (record,) = receiver.log("cannot start")
    assert f"cannot listen on 127.0.0.1 port {port}" in record["fault"]
    assert "OXIDICOM_ADMIN_PORT" in record["fault"]


def test_a_dead_worker_degrades_the_workers_check(tmp_path: Path) -> None:
    with running(tmp_path, OXIDICOM_WORKERS="2") as (receiver, page):
        page.wait_for_state("workers", "ok")
        receiver.workers()[0].kill()
        page.wait_for_state("workers", "degraded")
        page.wait_for_state("workers", "ok")


def test_livez_fails_when_no_receiving_process_responds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings, _ = load({"OXIDICOM_FILES_ROOT": str(tmp_path), "OXIDICOM_ADMIN_PORT": "0"})
    admin = AdminEndpoint(settings)
    now = 0.0
    admin.liveness = Liveness(lambda: now)
    admin.liveness.beat(1)
    now = RECEIVER_DEAD_AFTER_S - 1
    assert admin.restart_reason() is None
    now = RECEIVER_DEAD_AFTER_S
    assert admin.restart_reason() == "no receiving process has responded for 60 s"
    admin.draining = True
    assert admin.restart_reason() is None, "workers end during the drain"
    admin.close()


IMPORTED = """
import asyncio, sys
from oxidicom.app.receiver import Receiver
from oxidicom.settings import load

async def serve():
    environment = {"OXIDICOM_FILES_ROOT": sys.argv[1], "OXIDICOM_LISTENER_PORT": "0"}
    receiver = Receiver(load(environment)[0])
    ports = await receiver.start()
    await receiver.drain()
    return ports.admin

assert asyncio.run(serve()) is None
ours = ("oxidicom.admin", "oxidicom.app.admin", "starlette", "uvicorn", "prometheus_client")
print([name for name in sys.modules if name.startswith(ours)])
"""


def test_without_a_port_the_endpoint_is_not_loaded(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, str(tmp_path)],
        env={"PYTHONPATH": str(PROJECT / "src")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr
