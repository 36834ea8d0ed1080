"""A trace that begins with an association continues in CUBE, over every transport."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.brokers import Broker
from tests.support.cube import PREFIX
from tests.support.cube_http import PASSWORD, USERNAME, Cube
from tests.support.data import Instance
from tests.support.otlp import Collector, attributes, http_collector
from tests.support.raw_peer import EXPLICIT, RawPeer
from tests.support.receiver import PROJECT, Receiver, wait_until

QUEUE = "traced"
RUN = "run/pacsfiles.tasks.register_pacs_series"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with http_collector() as collector:
        yield collector


def receiver_of(root: Path, collector: Collector, **environment: str | None) -> Receiver:
    return Receiver(
        root,
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
        OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
        **environment,
    )


def send(receiver: Receiver) -> str:
    """Send one series and return its UID."""
    instance = Instance()
    with RawPeer(receiver.port) as peer:
        peer.associate()
        assert peer.store(instance.sop_instance, instance.encode(EXPLICIT)).status == 0
        peer.release()
    return instance.series


class Traces:
    """The spans at a collector after all processes have flushed."""

    def __init__(self, collector: Collector) -> None:
        self.spans = collector.spans()

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name == name]

    def registration_of(self, series: str) -> Any:
        [span] = [
            span
            for span in self.named("register_series")
            if attributes(span)["SeriesInstanceUID"] == series
        ]
        [association] = [
            each for each in self.named("association") if each.span_id == span.parent_span_id
        ]
        assert association.trace_id == span.trace_id
        return span


def traceparent(span: Any) -> str:
    """Return the traceparent without its flags, which exported spans do not have."""
    return f"00-{span.trace_id.hex()}-{span.span_id.hex()}-"


@pytest.fixture(params=["rabbitmq", "redis_server"])
def broker(request: pytest.FixtureRequest) -> Broker:
    broker: Broker = request.getfixturevalue(request.param)
    return broker


@pytest.fixture
def worker(
    broker: Broker, collector: Collector, tmp_path: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a Celery worker like CUBE's, traced by OpenTelemetry's own instrumentation."""
    (tmp_path / "calls").mkdir()
    environment = {
        f"{PREFIX}BROKER": broker.url,
        f"{PREFIX}QUEUE": QUEUE,
        f"{PREFIX}ROOT": str(tmp_path),
        f"{PREFIX}CALLS": str(tmp_path / "calls"),
        f"{PREFIX}TRACES": f"{collector.endpoint}/v1/traces",
        "PYTHONPATH": str(PROJECT),
    }
    output = tmp_path / "worker.log"
    options = ("-Q", QUEUE, "-P", "solo", "-l", "INFO", "--without-gossip", "--without-mingle")
    with output.open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "tests.support.cube", "worker", *options],
            env=os.environ | environment,
            cwd=PROJECT,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield worker
    finally:
        worker.terminate()
        worker.wait(20)
        sys.stderr.write(output.read_text(errors="replace")[-2000:])


def test_the_span_of_a_celery_worker_is_a_child_of_the_registration(
    broker: Broker, worker: subprocess.Popen[bytes], collector: Collector, tmp_path: Path
) -> None:
    """This also holds for a registration that waited in the outbox for the next start."""
    root = tmp_path / "files"
    root.mkdir()
    with receiver_of(root, collector) as receiver:
        waited = send(receiver)
        receiver.wait_for_outbox(1)
        receiver.stop()
        [logged] = receiver.log("series complete")
    with receiver_of(
        root, collector, OXIDICOM_CELERY_BROKER=broker.url, OXIDICOM_QUEUE_NAME=QUEUE
    ) as receiver:
        at_once = send(receiver)
        with collector.arrived:
            assert collector.arrived.wait_for(
                lambda: len(Traces(collector).named(RUN)) == 2, timeout=30
            ), "the tasks were run and traced"
        wait_until(lambda: receiver.outbox() == [], "an empty outbox")
        receiver.stop()
    traces = Traces(collector)
    registrations = [traces.registration_of(series) for series in (waited, at_once)]
    ours = {(span.trace_id, span.span_id) for span in registrations}
    theirs = {(span.trace_id, span.parent_span_id) for span in traces.named(RUN)}
    assert len(ours) == 2
    assert theirs == ours
    span = registrations[0]
    assert (logged["trace_id"], logged["span_id"]) == (span.trace_id.hex(), span.span_id.hex())


@pytest.mark.parametrize("by", ["series", "instance"])
def test_over_http_the_traceparent_is_a_header(
    collector: Collector, tmp_path: Path, by: str
) -> None:
    with (
        Cube() as cube,
        receiver_of(
            tmp_path,
            collector,
            CHRIS_URL=cube.url,
            CHRIS_USERNAME=USERNAME,
            CHRIS_PASSWORD=PASSWORD,
            OXIDICOM_HTTP_REGISTER=by,
        ) as receiver,
    ):
        series = send(receiver)
        cube.wait_for_taken(1 if by == "series" else 3)
        receiver.stop()
    traces = Traces(collector)
    registration = traces.registration_of(series)
    if by == "series":
        spans = [registration]
    else:
        pushes = traces.named("push_to_chris"), traces.named("register_oxidicom_custom_metadata")
        spans = [*pushes[0], *pushes[1]]
        assert [len(each) for each in pushes] == [1, 2]
        assert {span.trace_id for span in spans} == {registration.trace_id}
    told = [each or "" for each in cube.traceparents]
    assert sorted(each[:-2] for each in told) == sorted(map(traceparent, spans))
    assert all(int(each[-2:], 16) & 1 for each in told), "sampled"


def test_log_lines_of_an_association_have_its_trace_and_span_id(
    collector: Collector, tmp_path: Path
) -> None:
    bad = Instance(StudyDate="tomorrow")
    with receiver_of(tmp_path, collector) as receiver:
        with RawPeer(receiver.port) as peer:
            peer.associate()
            assert peer.store(bad.sop_instance, bad.encode(EXPLICIT)).status == 0xC000
            peer.release()
        receiver.wait_for_log("association released")
        receiver.stop()
    [span] = Traces(collector).named("association")
    for message in ("instance refused", "association released"):
        [line] = receiver.log(message)
        assert (line["trace_id"], line["span_id"]) == (span.trace_id.hex(), span.span_id.hex())


def test_without_telemetry_messages_have_no_traceparent(tmp_path: Path) -> None:
    with Receiver(tmp_path) as receiver:
        send(receiver)
        [entry] = receiver.wait_for_outbox(1)
        receiver.stop()
    assert entry["traceparent"] is None
    for message in ("association released", "series complete"):
        [line] = receiver.log(message)
        assert line.keys().isdisjoint({"trace_id", "span_id"})
