"""Exports to a real endpoint over both protocols, and to endpoints that do not work."""

from __future__ import annotations

import gc
import io
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.trace import ReadableSpan

from oxidicom.association_tally import AssociationTally
from oxidicom.observers import Observers
from oxidicom.ports import InstanceRefused, InstanceStored
from oxidicom.telemetry import logs, start
from tests.support import otlp
from tests.support.otlp import PATIENT, SERIES, T0, Collector, attributes, began, ended, stored
from tests.support.timing import BUSY_MACHINE_S


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    logs.configure("debug", "json", stream)
    yield stream
    root = logging.getLogger()
    for handler in [h for h in root.handlers if type(h).__name__ == "LineHandler"]:
        root.removeHandler(handler)
        handler.close()


def lines(log: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


@pytest.fixture(params=["grpc", "http/protobuf"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def collector(protocol: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with otlp.COLLECTORS[protocol]() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        yield collector


class Exporting(Observers):
    """The exporting observers, and the tallies that the control plane would keep."""

    def __init__(self, protocol: str) -> None:
        observers, self.trace = start(enabled=True, protocol=protocol, service_version="9.8.7")
        super().__init__(observers)
        self.tallies: dict[str, AssociationTally] = {}

    def association_began(self, association: AssociationTally) -> None:
        self.tallies[association.began.association_id] = association
        super().association_began(association)

    def instance_stored(self, report: InstanceStored) -> None:
        self.tallies[report.association_id].count_stored(report)
        super().instance_stored(report)

    def instance_refused(self, report: InstanceRefused) -> None:
        self.tallies[report.association_id].count_refused(report)
        super().instance_refused(report)


def started(protocol: str) -> Exporting:
    return Exporting(protocol)


def feed(telemetry: Exporting) -> None:
    """Send the events of two associations that carry one series, of a third one that fails, and of
    two registrations, one of which fails."""
    telemetry.association_began(AssociationTally(began("A1")))
    telemetry.association_began(AssociationTally(began("A2")))
    for number in (1, 2):
        telemetry.instance_stored(stored("A1", number, size=1000))
    telemetry.instance_stored(stored("A2", 3, size=500))
    telemetry.instance_refused(otlp.refused("A2", 0xC000))
    telemetry.instance_refused(otlp.refused("A2", 0xA700))
    telemetry.association_ended(ended("A1"))
    telemetry.association_ended(ended("A2"))
    telemetry.association_began(AssociationTally(began("A3")))
    telemetry.association_ended(ended("A3", "A-ABORT by the peer"))
    telemetry.association_began(AssociationTally(began("A4")))
    ended_ns = T0 + 30
    telemetry.series_completed(otlp.completed("A1", "A2"))
    telemetry.trace.begin_registration(otlp.completed("A1", "A2"), T0 + 10)
    telemetry.series_registered(
        otlp.registered("A1", "A2", ndicom=3, started_ns=T0 + 10, ended_ns=ended_ns)
    )
    telemetry.trace.begin_registration(otlp.completed("LOST"), T0 + 10)
    telemetry.series_registered(
        otlp.registered("LOST", started_ns=T0 + 10, ended_ns=ended_ns, error="queue is gone")
    )
    telemetry.outbox_depth(7)
    telemetry.outbox_depth(4)
    telemetry.lonk_dropped(5)
    telemetry.lonk_dropped(6)


def test_spans(collector: Collector, protocol: str) -> None:
    telemetry = started(protocol)
    feed(telemetry)
    telemetry.shutdown(10)

    resource = attributes(collector.traces[0].resource_spans[0].resource)
    assert resource["service.name"] == "oxidicom"
    assert resource["service.version"] == "9.8.7"
    assert collector.traces[0].resource_spans[0].scope_spans[0].scope.name == "oxidicom"

    spans = collector.spans()
    assert [span.name for span in spans].count("association") == 3
    by_id = {attributes(s)["association_ulid"]: s for s in spans if s.name == "association"}
    second = by_id["A2"]
    assert attributes(second) == {
        "association_ulid": "A2",
        "client.address": "192.0.2.7",
        "client.port": 40123,
        "aet": "MODALITY 1",
        "instances.stored": 1,
        "instances.refused": 2,
        "instances.refused.C000": 1,
        "instances.refused.A700": 1,
        "bytes": 123_456,
    }
    assert second.start_time_unix_nano == T0
    assert second.end_time_unix_nano == T0 + 2_000_000_000
    assert second.kind == Span.SPAN_KIND_SERVER
    assert not second.parent_span_id
    assert attributes(by_id["A1"])["instances.stored"] == 2
    assert by_id["A1"].status.code == Status.STATUS_CODE_OK
    assert by_id["A3"].status.code == Status.STATUS_CODE_ERROR
    assert by_id["A3"].status.message == "A-ABORT by the peer"

    [confirmed, failed] = [span for span in spans if span.name == "register_series"]
    assert confirmed.parent_span_id == second.span_id
    assert confirmed.trace_id == second.trace_id
    assert [link.span_id for link in confirmed.links] == [by_id["A1"].span_id]
    assert attributes(confirmed) == {
        "pacs_name": "MODALITY_1",
        "SeriesInstanceUID": SERIES.series_instance_uid,
        "ndicom": 3,
    }
    assert (confirmed.start_time_unix_nano, confirmed.end_time_unix_nano) == (T0 + 10, T0 + 30)
    assert confirmed.status.code == Status.STATUS_CODE_OK
    assert not failed.parent_span_id
    assert failed.status.code == Status.STATUS_CODE_ERROR
    assert failed.status.message == "queue is gone"


def test_metrics(collector: Collector, protocol: str) -> None:
    telemetry = started(protocol)
    feed(telemetry)
    telemetry.shutdown(10)

    points = collector.points()
    assert sorted(points) == [
        "oxidicom.association.duration",
        "oxidicom.associations",
        "oxidicom.associations.open",
        "oxidicom.bytes",
        "oxidicom.instance.size",
        "oxidicom.instances",
        "oxidicom.lonk.dropped",
        "oxidicom.outbox.depth",
        "oxidicom.series.duration",
        "oxidicom.series.registered",
        "oxidicom.series.registration.duration",
        "oxidicom.store.latency",
    ]
    assert {p.attributes["result"]: p.value for p in points["oxidicom.associations"]} == {
        "ok": 2,
        "error": 1,
    }
    assert points["oxidicom.associations"][0].attributes["aet"] == "MODALITY 1"
    assert {p.attributes["status"]: p.value for p in points["oxidicom.instances"]} == {
        "0000": 3,
        "A700": 1,
        "C000": 1,
    }
    assert all(set(p.attributes) == {"status"} for p in points["oxidicom.instances"])
    assert points["oxidicom.associations.open"] == [({}, 1)]
    assert points["oxidicom.bytes"] == [({}, 2500)]
    assert points["oxidicom.outbox.depth"] == [({}, 4)]
    assert points["oxidicom.lonk.dropped"] == [({}, 11)]
    assert {p.attributes["result"]: p.value for p in points["oxidicom.series.registered"]} == {
        "ok": 1,
        "error": 1,
    }
    [latency] = points["oxidicom.store.latency"]
    assert latency.value.count == 3
    assert latency.value.sum == pytest.approx(0.009)
    # Three equal values are in one bucket, whose bounds are those of the scale.
    base = 2 ** (2**-latency.value.scale)
    [index] = [
        latency.value.positive.offset + number
        for number, count in enumerate(latency.value.positive.bucket_counts)
        if count == 3
    ]
    assert base**index <= 0.003 * (1 + 1e-9)
    assert base ** (index + 1) >= 0.003 * (1 - 1e-9)

    instruments = collector.instruments()
    assert instruments["oxidicom.instance.size"].unit == "By"
    assert instruments["oxidicom.bytes"].unit == "By"
    assert instruments["oxidicom.store.latency"].unit == "s"
    assert instruments["oxidicom.associations"].sum.is_monotonic
    assert not instruments["oxidicom.associations.open"].sum.is_monotonic


@pytest.mark.parametrize(
    ("wanted", "kind"),
    [
        ("", "exponential_histogram"),
        ("base2_exponential_bucket_histogram", "exponential_histogram"),
        ("explicit_bucket_histogram", "histogram"),
    ],
)
def test_the_environment_chooses_the_histogram_aggregation(
    monkeypatch: pytest.MonkeyPatch, wanted: str, kind: str
) -> None:
    name = "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION"
    monkeypatch.setenv(name, wanted)
    with otlp.http_collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        telemetry = started("http/protobuf")
        feed(telemetry)
        telemetry.shutdown(10)
    latency = collector.instruments()["oxidicom.store.latency"]
    assert latency.WhichOneof("data") == kind
    if kind == "histogram":
        [point] = latency.histogram.data_points
        assert point.bucket_counts[list(point.explicit_bounds).index(0.005)] == 3


def test_no_patient_data(collector: Collector, protocol: str, log: io.StringIO) -> None:
    telemetry = started(protocol)
    feed(telemetry)
    telemetry.shutdown(10)
    assert SERIES.series_instance_uid.encode() in collector.raw  # the records did get there
    for needle in (PATIENT, SERIES.study_date, "19870605"):
        assert needle.encode() not in collector.raw
        assert needle not in log.getvalue()
    values = [value for span in collector.spans() for value in attributes(span).values()]
    assert SERIES.patient_age not in values


def test_the_environment_variables_of_the_sdk_apply(
    collector: Collector, protocol: str, monkeypatch: pytest.MonkeyPatch, log: io.StringIO
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "receiver-3")
    attributes_of_place = "deployment.environment=ward 5,service.instance.id=pod-0"
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", attributes_of_place)
    monkeypatch.setenv("OTEL_EXPERIMENTAL_RESOURCE_DETECTORS", "host")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-token=s3cret,garbage")
    telemetry = started(protocol)
    feed(telemetry)
    telemetry.shutdown(10)
    for resource in (
        collector.traces[0].resource_spans[0].resource,
        collector.metrics[0].resource_metrics[0].resource,
    ):
        assert attributes(resource)["service.name"] == "receiver-3"
        assert attributes(resource)["deployment.environment"] == "ward 5"
        assert attributes(resource)["service.instance.id"] == "pod-0"
        assert attributes(resource)["host.name"] == socket.gethostname()
    assert all(headers["x-token"] == "s3cret" for headers in collector.headers)
    assert any("Header format invalid" in line.get("complaint", "") for line in lines(log))
    assert "s3cret" not in log.getvalue()
    assert "garbage" not in log.getvalue()


@pytest.mark.parametrize(
    ("variables", "traces", "metrics"),
    [
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "{0}/v1/traces"}, True, False),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "{0}/v1/metrics"}, False, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "{0}", "OTEL_TRACES_EXPORTER": "none"}, False, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "{0}", "OTEL_METRICS_EXPORTER": "none"}, True, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "{0}", "OTEL_SDK_DISABLED": "true"}, False, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "{0}", "OTEL_TRACES_SAMPLER": "always_off"}, False, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "{0}", "OTEL_BSP_SCHEDULE_DELAY": "-1"}, False, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "{0}", "OTEL_TRACES_EXPORTER": "zipkin"}, False, True),
    ],
)
def test_the_environment_selects_the_signals(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], traces: bool, metrics: bool
) -> None:
    with otlp.http_collector() as collector:
        for name, value in variables.items():
            monkeypatch.setenv(name, value.format(collector.endpoint))
        telemetry = started("http/protobuf")
        feed(telemetry)
        telemetry.shutdown(10)
    assert (bool(collector.traces), bool(collector.metrics)) == (traces, metrics)


def test_a_protocol_for_one_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    with otlp.grpc_collector() as grpc, otlp.http_collector() as http:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", grpc.endpoint)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/protobuf")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", f"{http.endpoint}/v1/metrics")
        telemetry = started("grpc")
        feed(telemetry)
        telemetry.shutdown(10)
    assert (len(grpc.traces), len(grpc.metrics)) == (1, 0)
    assert (len(http.traces), len(http.metrics)) == (0, 1)


def test_signals_are_exported_at_intervals(
    collector: Collector, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "20")
    telemetry = started(protocol)
    feed(telemetry)
    with collector.arrived:
        assert collector.arrived.wait_for(
            lambda: collector.traces and len(collector.metrics) > 1, timeout=10
        )
    telemetry.shutdown(10)
    assert len(collector.spans()) == 5


@pytest.mark.parametrize("endpoint", ["refusing", "silent"])
def test_shutdown_is_bounded(
    protocol: str, endpoint: str, monkeypatch: pytest.MonkeyPatch, log: io.StringIO
) -> None:
    open_endpoint = getattr(otlp, f"{endpoint}_endpoint")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "20")
    with open_endpoint() as address:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        telemetry = started(protocol)
        feed(telemetry)
        began_at = time.monotonic()
        telemetry.shutdown(1.0)
        assert time.monotonic() - began_at < 1 + BUSY_MACHINE_S
    for thread in [t for t in threading.enumerate() if t.name.startswith(("Otel", "ox-"))]:
        thread.join(10)
        assert not thread.is_alive()
    warnings = [line for line in lines(log) if line["level"] != "INFO"]
    assert len(warnings) == 1
    assert "telemetry export failed" in warnings[0]["message"]


def test_a_refused_export_is_one_warning_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, log: io.StringIO
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "10")
    with otlp.http_collector(status=401) as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        telemetry = started("http/protobuf")
        feed(telemetry)
        with collector.arrived:
            assert collector.arrived.wait_for(lambda: len(collector.metrics) >= 5, timeout=10)
        telemetry.shutdown(5)
    [warning] = [line for line in lines(log) if line["level"] == "WARN"]
    assert "401" in warning["reason"]


def test_events_neither_block_nor_pile_up_while_the_endpoint_is_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An export to a dead endpoint takes seconds; there are far more spans than the queue holds."""
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "64")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "32")
    with otlp.refusing_endpoint() as address:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", address)
        telemetry = started("grpc")
        before = time.monotonic()
        for number in range(2000):
            telemetry.association_began(AssociationTally(began(f"A{number}")))
            telemetry.association_ended(ended(f"A{number}"))
        assert time.monotonic() - before < 4 + BUSY_MACHINE_S
        assert sum(isinstance(thing, ReadableSpan) for thing in gc.get_objects()) < 200
        telemetry.shutdown(0.5)
        telemetry.association_began(AssociationTally(began("late")))  # dropped, not an error
