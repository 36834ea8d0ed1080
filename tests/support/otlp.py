"""A real OTLP endpoint over gRPC or HTTP, and records for the observers that export to it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import grpc  # type: ignore[import-untyped]
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_pb
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as trace_grpc

from oxidicom.observers import (
    RegistrationOutcome,
    SeriesRegistered,
)
from oxidicom.ports import (
    AssociationBegan,
    AssociationEnded,
    InstanceRefused,
    InstanceStored,
    SeriesCompleted,
    SeriesInfo,
)

# ---- what arrives --------------------------------------------------------------------------


class Point(NamedTuple):
    attributes: dict[str, Any]
    value: Any
    """A number, or the whole data point of a histogram."""


class Collector:
    """Everything that was exported to one endpoint; filled by the threads of the server."""

    def __init__(self) -> None:
        self.endpoint = ""
        self.traces: list[trace_pb.ExportTraceServiceRequest] = []
        self.metrics: list[metrics_pb.ExportMetricsServiceRequest] = []
        self.headers: list[dict[str, str]] = []
        self.arrived = threading.Condition()

    def take(self, request: Any, headers: Iterable[tuple[str, Any]]) -> None:
        with self.arrived:
            is_traces = isinstance(request, trace_pb.ExportTraceServiceRequest)
            (self.traces if is_traces else self.metrics).append(request)
            self.headers.append({key.lower(): str(value) for key, value in headers})
            self.arrived.notify_all()

    @property
    def raw(self) -> bytes:
        requests: list[Any] = [*self.traces, *self.metrics]
        return b"".join(request.SerializeToString() for request in requests)

    def spans(self) -> list[Any]:
        return [
            span
            for request in self.traces
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def points(self) -> dict[str, list[Point]]:
        """Return the data points of the last export by metric."""
        return {
            metric.name: [
                Point(attributes(point), _value(point, metric.WhichOneof("data")))
                for point in getattr(metric, metric.WhichOneof("data")).data_points
            ]
            for metric in self.instruments().values()
        }

    def instruments(self) -> dict[str, Any]:
        return {
            metric.name: metric
            for resource in self.metrics[-1].resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


def attributes(holder: Any) -> dict[str, Any]:
    return {
        pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in holder.attributes
    }


def _value(point: Any, kind: str) -> Any:
    return point if kind.endswith("histogram") else getattr(point, point.WhichOneof("value"))


# ---- endpoints -----------------------------------------------------------------------------


class _Traces(trace_grpc.TraceServiceServicer):
    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._collector.take(request, context.invocation_metadata())
        return trace_pb.ExportTraceServiceResponse()


class _Metrics(metrics_grpc.MetricsServiceServicer):
    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._collector.take(request, context.invocation_metadata())
        return metrics_pb.ExportMetricsServiceResponse()


@contextlib.contextmanager
def grpc_collector() -> Iterator[Collector]:
    collector = Collector()
    with ThreadPoolExecutor(max_workers=2) as pool:
        server = grpc.server(pool)
        trace_grpc.add_TraceServiceServicer_to_server(_Traces(collector), server)  # type: ignore[no-untyped-call]
        metrics_grpc.add_MetricsServiceServicer_to_server(_Metrics(collector), server)  # type: ignore[no-untyped-call]
        collector.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        try:
            yield collector
        finally:
            server.stop(None).wait()


_REQUESTS: dict[str, Any] = {
    "/v1/traces": trace_pb.ExportTraceServiceRequest,
    "/v1/metrics": metrics_pb.ExportMetricsServiceRequest,
}


@contextlib.contextmanager
def http_collector(status: int = 200) -> Iterator[Collector]:
    """Start a collector that takes each export and answers with `status`."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            collector.take(_REQUESTS[self.path].FromString(body), self.headers.items())
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()


COLLECTORS = {"grpc": grpc_collector, "http/protobuf": http_collector}


@contextlib.contextmanager
def refusing_endpoint() -> Iterator[str]:
    """Reserve a port on which nothing listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


@contextlib.contextmanager
def silent_endpoint() -> Iterator[str]:
    """Start an endpoint that accepts connections and never responds."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


# ---- records -------------------------------------------------------------------------------

T0 = 1_800_000_000_000_000_000
"""A time in nanoseconds since the epoch."""

PATIENT = "Zwiebelmarker"
"""Part of every patient attribute of `SERIES`; it must not be exported."""

SERIES = SeriesInfo(
    calling_ae_title="MODALITY 1",
    pacs_name="MODALITY_1",
    path=f"SERVICES/PACS/MODALITY_1/{PATIENT}-path/1-{PATIENT}",
    patient_id=f"{PATIENT}-id",
    study_date="1987-06-05",
    study_instance_uid="1.2.826.0.1.3680043.8.498.1",
    series_instance_uid="1.2.826.0.1.3680043.8.498.2",
    patient_name=f"{PATIENT}^NAME",
    patient_birth_date=f"{PATIENT}-birth",
    patient_age=14242,
    patient_sex=f"{PATIENT}-sex",
    accession_number=f"{PATIENT}-accession",
    modality=f"{PATIENT}-modality",
    protocol_name=f"{PATIENT}-protocol",
    study_description=f"{PATIENT}-study",
    series_description=f"{PATIENT}-series",
)


def began(association: str, wall_ns: int = T0) -> AssociationBegan:
    return AssociationBegan(association, "192.0.2.7", 40123, "MODALITY 1", "ChRIS", 1.0, wall_ns)


def stored(association: str, number: int = 1, size: int = 1000) -> InstanceStored:
    uid = f"{SERIES.series_instance_uid}.{number}"
    return InstanceStored(association, SERIES, uid, size, 0.003, 1.5)


def refused(association: str, status: int) -> InstanceRefused:
    uid = SERIES.series_instance_uid
    text = "Illegal value for tag StudyDate"
    return InstanceRefused(association, "MODALITY 1", "MODALITY_1", uid, status, text, 1.6)


def ended(
    association: str, error: str | None = None, wall_ns: int = T0 + 2_000_000_000
) -> AssociationEnded:
    return AssociationEnded(association, error, 123_456, 3.0, wall_ns)


def completed(*associations: str) -> SeriesCompleted:
    return SeriesCompleted(SERIES, 1, associations)


def registered(*associations: str, **changes: Any) -> SeriesRegistered:
    """Return the end of a registration that began at `T0`."""
    return SeriesRegistered(
        SERIES, associations, 1, 1, T0, T0 + 1, RegistrationOutcome.CONFIRMED, None
    )._replace(**changes)
