from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import StatusCode

from oxidicom.association_tally import AssociationTally
from oxidicom.logevents import trace_fields
from oxidicom.observers import (
    HttpRegistration,
    HttpSeriesRegistration,
    Observer,
    Observers,
    RegistrationOutcome,
    exportable,
)
from oxidicom.ports import CountQueryResult
from oxidicom.telemetry import metrics, otlp, start, tracing
from tests.support.otlp import SERIES, T0, began, completed, ended, registered, stored
from tests.support.timing import BUSY_MACHINE_S

NOTHING_IMPORTED = """
import sys
from oxidicom import telemetry
from oxidicom.telemetry import logs
started = telemetry.start(enabled=False, protocol="grpc", service_version="1")
import threading
assert started is telemetry.NO_TELEMETRY
assert threading.active_count() == 1
heavy = ("opentelemetry", "grpc", "google", "requests")
print(sorted(name for name in sys.modules if name.startswith(heavy)))
"""


def test_nothing_is_imported_without_an_endpoint() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NOTHING_IMPORTED], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("protocol", ["carrier-pigeon", "http/json"])
def test_an_unknown_protocol_is_a_warning(
    protocol: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:1")
    assert start(enabled=True, protocol=protocol, service_version="1").observers == ()
    assert [record.fields["protocol"] for record in caplog.records] == [protocol]  # type: ignore[attr-defined]


def test_settings_that_the_sdk_refuses_are_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "brotli")
    assert start(enabled=True, protocol="grpc", service_version="1").observers == ()
    [record] = caplog.records
    assert "brotli" in record.fields["reason"]  # type: ignore[attr-defined]


# ---- spans ---------------------------------------------------------------------------------


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def spans(exporter: InMemorySpanExporter) -> Iterator[tracing.Spans]:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield tracing.Spans(provider.get_tracer("oxidicom"))
    provider.shutdown()


def register(spans: tracing.Spans, *associations: str, **changes: Any) -> str | None:
    traceparent = spans.begin_registration(completed(*associations), T0)
    spans.series_registered(registered(*associations, **changes))
    return traceparent


def test_a_span_ends_no_earlier_than_it_began(
    spans: tracing.Spans, exporter: InMemorySpanExporter
) -> None:
    spans.association_began(AssociationTally(began("A", T0)))
    spans.association_ended(ended("A", wall_ns=T0 - 5))
    register(spans, ended_ns=T0 - 5)
    assert [(span.start_time, span.end_time) for span in exporter.get_finished_spans()] == [
        (T0, T0),
        (T0, T0),
    ]


def test_the_span_of_an_encrypted_association_has_the_tls_version(
    spans: tracing.Spans, exporter: InMemorySpanExporter
) -> None:
    spans.association_began(AssociationTally(began("A")._replace(tls="TLSv1.3")))
    spans.association_began(AssociationTally(began("B")))
    for name in "AB":
        spans.association_ended(ended(name))
    told = [span.attributes for span in exporter.get_finished_spans()]
    assert [each and each.get("tls") for each in told] == ["TLSv1.3", None]


def test_the_span_of_a_series_is_a_child_of_an_open_association(
    spans: tracing.Spans, exporter: InMemorySpanExporter
) -> None:
    spans.association_began(AssociationTally(began("A")))
    register(spans, "A")
    spans.association_ended(ended("A"))
    series, association = exporter.get_finished_spans()
    assert series.parent is not None
    assert series.parent.span_id == association.context.span_id


def test_spans_of_associations_that_never_end_are_bounded(
    spans: tracing.Spans, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "MAX_TRACKED", 2)
    for name in ("A", "B", "C"):
        spans.association_began(AssociationTally(began(name)))
    [lost] = exporter.get_finished_spans()
    assert (lost.attributes or {})["association_ulid"] == "A"
    assert not lost.status.is_ok
    spans.association_ended(ended("A"))  # late: already told
    assert len(exporter.get_finished_spans()) == 1


def test_spans_of_ended_associations_are_bounded(
    spans: tracing.Spans, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "MAX_ENDED_ASSOCIATIONS", 2)
    for name in ("A", "B", "C"):
        spans.association_began(AssociationTally(began(name)))
        spans.association_ended(ended(name))
    for name in ("A", "B", "C"):
        register(spans, name)
    parents = [span.parent for span in exporter.get_finished_spans()[3:]]
    assert [parent is None for parent in parents] == [True, False, False]


ULID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
UUID = "01563e3a-b5d3-d676-4c61-efb99302bd5b"


def asked(**changes: Any) -> CountQueryResult:
    return CountQueryResult(
        series=SERIES,
        association_id=ULID,
        pacs_address="192.0.2.9:104",
        called_ae_title="MODALITY 1",
        calling_ae_title="ChRIS",
        expected=12,
        status=0,
        error=None,
        asked_ns=T0,
        began_ns=T0 + 10,
        ended_ns=T0 + 30,
    )._replace(**changes)


def test_the_spans_of_a_count_query(spans: tracing.Spans, exporter: InMemorySpanExporter) -> None:
    spans.association_began(AssociationTally(began(ULID)))
    spans.count_query_ended(asked())
    spans.association_ended(ended(ULID))
    findscu, outer, association = exporter.get_finished_spans()
    assert (findscu.name, outer.name) == ("findscu", "getset_number_of_series_related_instances")
    assert outer.parent is not None
    assert outer.parent.span_id == association.context.span_id
    assert findscu.parent is not None
    assert findscu.parent.span_id == outer.context.span_id
    assert dict(outer.attributes or {}) == {
        "association_ulid": ULID,
        "association_uuid": UUID,
        "expected": 12,
    }
    assert dict(findscu.attributes or {}) == {
        "association_ulid": ULID,
        "association_uuid": UUID,
        "pacs_address": "192.0.2.9:104",
        "aec": "MODALITY 1",
        "aet": "ChRIS",
        "StudyInstanceUID": SERIES.study_instance_uid,
        "SeriesInstanceUID": SERIES.series_instance_uid,
    }
    [status] = findscu.events
    assert (status.name, dict(status.attributes or {})) == ("status", {"status": "0000"})
    assert findscu.status.is_ok
    assert outer.status.is_ok
    assert [(span.start_time, span.end_time) for span in (outer, findscu)] == [
        (T0, T0 + 30),
        (T0 + 10, T0 + 30),
    ]


def test_the_spans_of_a_count_query_without_an_answer(
    spans: tracing.Spans, exporter: InMemorySpanExporter
) -> None:
    spans.count_query_ended(asked(expected=None, status=None, error="no answer in time"))
    spans.count_query_ended(asked(error="status A700H", status=0xA700))
    spans.count_query_ended(asked(expected=None, status=None, error="dropped", began_ns=None))
    findscu, outer, after_count, counted, dropped = exporter.get_finished_spans()
    assert outer.parent is None, "the association is unknown"
    for span in (findscu, outer):
        assert span.status.description == "no answer in time"
        assert span.events == ()
    assert after_count.status.description == "status A700H"
    assert counted.status.is_ok
    assert dropped.name == "getset_number_of_series_related_instances"


def test_the_span_of_a_registration_has_the_expected_count(
    spans: tracing.Spans, exporter: InMemorySpanExporter
) -> None:
    register(spans, expected=4)
    register(spans)
    told = [dict(span.attributes or {}).get("expected") for span in exporter.get_finished_spans()]
    assert told == [4, None]


def test_the_end_of_an_unknown_association_is_ignored(
    spans: tracing.Spans, exporter: InMemorySpanExporter
) -> None:
    spans.association_ended(ended("?"))
    assert exporter.get_finished_spans() == ()


def push(**changes: Any) -> HttpRegistration:
    url = "https://cube/api/v1/pacsfiles/"
    return HttpRegistration(SERIES, "A", url, None, T0 + 1, T0 + 9)._replace(**changes)


def pushed(spans: tracing.Spans, **changes: Any) -> str | None:
    one = push(**changes)
    traceparent = spans.begin_http_registration(one.association_id, one.started_ns)
    spans.http_registration_ended(one._replace(traceparent=traceparent))
    return traceparent


def test_the_span_of_an_http_registration_has_the_name_of_the_first_generation(
    spans: tracing.Spans, exporter: InMemorySpanExporter
) -> None:
    spans.association_began(AssociationTally(began("A")))
    pushed(spans, retries=((T0 + 2, "CUBE answers 503", 2.0), (T0 + 4, "CUBE answers 429", 4)))
    pushed(spans, error="CubeUnavailableError: CUBE answers 503", association_id="lost")
    pushed(spans, file="SERVICES/PACS/…", association_id=None)
    spans.association_ended(ended("A"))
    first, failed, shown, association = exporter.get_finished_spans()
    assert {first.name, failed.name, shown.name} == {"push_to_chris"}
    assert first.parent is not None
    assert first.parent.span_id == association.context.span_id
    assert first.attributes == {
        "SeriesInstanceUID": SERIES.series_instance_uid,
        "url": "https://cube/api/v1/pacsfiles/",
    }
    assert [(each.name, each.timestamp, dict(each.attributes or {})) for each in first.events] == [
        ("retry_delay", T0 + 2, {"error": "CUBE answers 503", "sleep_duration": 2.0}),
        ("retry_delay", T0 + 4, {"error": "CUBE answers 429", "sleep_duration": 4}),
    ]
    assert (first.start_time, first.end_time) == (T0 + 1, T0 + 9)
    assert first.status.status_code is StatusCode.OK
    assert failed.parent is None
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.status.description == "CubeUnavailableError: CUBE answers 503"
    assert (shown.attributes or {})["fname"] == "SERVICES/PACS/…"


def test_the_spans_of_custom_metadata_and_of_a_whole_series_over_http(
    spans: tracing.Spans, exporter: InMemorySpanExporter
) -> None:
    pushed(spans, metadata=("OxidicomAttemptedPushCount", "4"))
    whole = HttpSeriesRegistration("A", "01563e3a-b5d3-d676-4c61-efb99302bd5b", T0, T0 + 5, None)
    spans.http_series_registration_ended(whole)
    spans.http_series_registration_ended(whole._replace(error="refused"))
    metadata, well, refused_one = exporter.get_finished_spans()
    assert metadata.name == "register_oxidicom_custom_metadata"
    assert metadata.attributes == {
        "SeriesInstanceUID": SERIES.series_instance_uid,
        "StudyInstanceUID": SERIES.study_instance_uid,
        "url": "https://cube/api/v1/pacsfiles/",
        "oxidicom.custom.key": "OxidicomAttemptedPushCount",
        "oxidicom.custom.value": "4",
    }
    assert {well.name, refused_one.name} == {"register_all_attempted_pushes"}
    assert well.attributes == {"association_uuid": "01563e3a-b5d3-d676-4c61-efb99302bd5b"}
    assert well.status.status_code is StatusCode.OK
    assert refused_one.status.status_code is StatusCode.ERROR


def test_a_traceparent_identifies_its_span(
    spans: tracing.Spans, exporter: InMemorySpanExporter
) -> None:
    spans.association_began(AssociationTally(began("A")))
    of_open = spans.of_association("A")
    of_push = pushed(spans)
    spans.association_ended(ended("A"))
    of_series = register(spans, "A")
    assert spans.of_association("A") == of_open
    assert spans.of_association("?") is None
    named = {
        span.name: f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}"
        f"-{span.context.trace_flags:02x}"
        for span in exporter.get_finished_spans()
    }
    assert named == {
        "association": of_open,
        "push_to_chris": of_push,
        "register_series": of_series,
    }
    assert len({traceparent[3:35] for traceparent in named.values()}) == 1, "one trace"
    assert trace_fields(of_series) == {
        "trace_id": named["register_series"][3:35],
        "span_id": named["register_series"][36:52],
    }
    assert trace_fields(None) == {}


def test_the_traceparent_of_a_span_that_is_not_sampled_says_so() -> None:
    spans = tracing.Spans(TracerProvider(sampler=ALWAYS_OFF).get_tracer("oxidicom"))
    traceparent = spans.begin_registration(completed(), T0)
    assert traceparent is not None
    assert int(traceparent[-2:], 16) & 1 == 0


def test_spans_of_registrations_that_never_end_are_bounded(
    spans: tracing.Spans, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "MAX_TRACKED", 2)
    for name in "ABC":
        spans.begin_registration(completed(name), T0)
    begun = [spans.begin_http_registration(None, T0) for _ in range(3)]
    for name in "ABC":
        spans.series_registered(registered(name))
    for traceparent in begun:
        spans.http_registration_ended(push(traceparent=traceparent))
    assert len(exporter.get_finished_spans()) == 4


def test_texts_of_peers_are_cut_and_made_valid_utf_8() -> None:
    assert exportable("A\udc80Ü" + "x" * 1000, 256) == "A?Ü" + "x" * 253


# ---- metrics -------------------------------------------------------------------------------


@pytest.fixture
def reader() -> InMemoryMetricReader:
    return InMemoryMetricReader()


@pytest.fixture
def measurements(reader: InMemoryMetricReader) -> Iterator[metrics.Measurements]:
    provider = MeterProvider([reader], shutdown_on_exit=False)
    yield metrics.Measurements(provider.get_meter("oxidicom"))
    provider.shutdown()


def read(reader: InMemoryMetricReader, name: str) -> list[tuple[dict[str, Any], Any]]:
    data = reader.get_metrics_data()
    assert data is not None
    [metric] = [
        metric
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == name
    ]
    return [(dict(p.attributes or {}), p.value) for p in metric.data.data_points]  # type: ignore[union-attr]


def test_the_number_of_open_associations_goes_up_and_down(
    measurements: metrics.Measurements, reader: InMemoryMetricReader
) -> None:
    measurements.association_began(AssociationTally(began("A")))
    measurements.association_began(AssociationTally(began("B")))
    assert read(reader, "oxidicom.associations.open") == [({}, 2)]
    measurements.association_ended(ended("A"))
    measurements.association_ended(ended("A"))
    assert read(reader, "oxidicom.associations.open") == [({}, 1)]
    assert read(reader, "oxidicom.associations") == [({"aet": "MODALITY 1", "result": "ok"}, 1)]


def test_count_queries_are_counted_by_result(
    measurements: metrics.Measurements, reader: InMemoryMetricReader
) -> None:
    for expected in (3, 0, None):
        measurements.count_query_ended(asked(expected=expected))
    assert read(reader, "oxidicom.series.asked") == [
        ({"result": "counted"}, 2),
        ({"result": "unknown"}, 1),
    ]


def histogram(reader: InMemoryMetricReader, name: str) -> list[tuple[dict[str, Any], int, Any]]:
    data = reader.get_metrics_data()
    assert data is not None
    return [
        (dict(point.attributes or {}), point.count, point.sum)  # type: ignore[union-attr]
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == name
        for point in metric.data.data_points
    ]


def test_durations_and_sizes_are_histograms(
    measurements: metrics.Measurements,
    reader: InMemoryMetricReader,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: T0)
    measurements.association_began(AssociationTally(began("A")))
    measurements.association_began(AssociationTally(began("B")))
    for number in (1, 2):
        measurements.instance_stored(stored("A", number, size=1000 * number))
    measurements.association_ended(ended("A"))
    measurements.association_ended(ended("B", "A-ABORT by the peer", T0 - 1))
    monkeypatch.setattr(time, "time_ns", lambda: T0 + 5_000_000_000)
    # The second one has no instance of its own.
    for outcome in (RegistrationOutcome.CONFIRMED, RegistrationOutcome.WAITING):
        measurements.series_completed(completed("A"))
        measurements.series_registered(registered("A", ended_ns=T0 + 500_000_000, outcome=outcome))
    assert {
        name: histogram(reader, f"oxidicom.{name}")
        for name in (
            *("association.duration", "instance.size"),
            *("series.duration", "series.registration.duration"),
        )
    } == {
        "association.duration": [({"result": "ok"}, 1, 2.0), ({"result": "error"}, 1, 0.0)],
        "instance.size": [({}, 2, 3000)],
        "series.duration": [({}, 1, 5.0)],
        "series.registration.duration": [
            ({"result": "ok"}, 1, 0.5),
            ({"result": "waiting"}, 1, 0.5),
        ],
    }


def test_the_number_of_time_series_is_bounded_whatever_peers_send(
    measurements: metrics.Measurements, reader: InMemoryMetricReader
) -> None:
    for number in range(metrics.MAX_TITLES + 50):
        name = f"A{number}"
        measurements.association_began(
            AssociationTally(began(name)._replace(calling_ae_title=name))
        )
        measurements.association_ended(ended(name))
    points = {point["aet"]: count for point, count in read(reader, "oxidicom.associations")}
    assert len(points) == metrics.MAX_TITLES + 1
    assert points["A0"] == 1
    assert points[metrics.OTHER_TITLES] == 50


# ---- failures ------------------------------------------------------------------------------


def test_an_error_at_the_begin_of_a_span_is_logged_once(
    spans: tracing.Spans, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **named: object) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr(spans._tracer, "start_span", fail)
    for _ in range(2):
        assert spans.begin_registration(completed(), T0) is None
        assert spans.begin_http_registration(None, T0) is None
    assert [record.message for record in caplog.records] == ["observer failed"] * 2


class Exporter:
    """An export that ends at once, or hangs until it is broken off."""

    def __init__(self, hangs: bool) -> None:
        self.calls: list[str] = []
        self._broken_off = threading.Event()
        if not hangs:
            self._broken_off.set()

    def shut_down(self) -> None:
        self._broken_off.wait(5)
        self.calls.append("shut down")

    def break_off(self) -> None:
        self.calls.append("broken off")
        self._broken_off.set()


def test_an_export_that_hangs_at_shutdown_is_broken_off_within_the_time_limit() -> None:
    hanging, quick = Exporter(hangs=True), Exporter(hangs=False)
    observers = Observers(
        [
            otlp.Export(otlp.Pipeline(Observer(), each.shut_down, each.break_off))
            for each in (hanging, quick)
        ]
    )
    began_at = time.monotonic()
    observers.shutdown(2.0)
    assert time.monotonic() - began_at < 2 + BUSY_MACHINE_S
    assert hanging.calls == ["broken off", "shut down"]
    assert quick.calls == ["shut down", "broken off"]


def test_an_outage_and_its_end_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "oxidicom")
    now = 0.0
    outage = otlp.Outage(reason=lambda: "UNAVAILABLE", clock=lambda: now)

    def told() -> list[str]:
        levels = [record.levelname for record in caplog.records]
        caplog.clear()
        return levels

    outage.exported("traces", True)
    assert told() == []
    for _ in range(5):
        outage.exported("traces", False)
        outage.exported("metrics", False)
    [record] = caplog.records
    assert record.fields["reason"] == "UNAVAILABLE"  # type: ignore[attr-defined]
    assert told() == ["WARNING"]
    outage.exported("traces", True)
    assert told() == []  # metrics still fail
    outage.exported("metrics", True)
    assert told() == ["INFO"]
    outage.exported("traces", False)
    outage.exported("traces", True)
    assert told() == []  # it comes and goes
    now = otlp.WARN_EVERY_S
    outage.exported("traces", False)
    assert told() == ["WARNING"]


def test_the_log_of_the_sdk_gives_reasons_without_secrets(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = otlp.SdkLog()

    def say(template: str, *arguments: object) -> None:
        log.handle(logging.LogRecord("sdk", logging.WARNING, "", 0, template, arguments, None))

    say("Header format invalid: %s", "token=s3cret")
    [record] = caplog.records
    assert record.fields["complaint"] == "Header format invalid: %s"  # type: ignore[attr-defined]
    log.starting = False
    say("Transient error %s while exporting %s", "connection refused", "spans")
    say("Shutdown in progress, aborting retry.")
    assert log.last_error == "Transient error connection refused while exporting spans"
    say("%d %d", "wrong", "arguments")
    assert log.last_error == "%d %d"
    assert len(caplog.records) == 1
