"""Export of traces and metrics by OTLP, over gRPC or HTTP.

Exporters, batching and limits are those of the SDK (see `OTEL_*` in its documentation). This module
chooses the signals, logs one warning per outage of the endpoint, and bounds the time at shutdown.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Final, Literal, NamedTuple

from opentelemetry.sdk.metrics import Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.metrics.view import Aggregation, ExponentialBucketHistogramAggregation
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from oxidicom.logevents import describe, event
from oxidicom.observers import Observer, TraceContext
from oxidicom.telemetry.metrics import Measurements
from oxidicom.telemetry.tracing import Spans
from oxidicom.thread_names import NamedThread

_Signal = Literal["traces", "metrics"]
_Protocol = Literal["grpc", "http/protobuf"]

WARN_EVERY_S: Final = 600.0
"""Least number of seconds between two warnings about an endpoint that often fails and recovers."""

_FLUSH_SHARE: Final = 0.8
"""Fraction of the shutdown timeout after which exports that are still running are broken off."""

_logger = logging.getLogger("oxidicom.telemetry")


def start(protocol: str, service_version: str) -> tuple[tuple[Observer, ...], TraceContext]:
    """Start the signals that the environment selects; return their observers and the trace context.

    `protocol` is used for signals without a protocol variable of their own. Faults of a signal are
    logged as warnings, and the signal is not exported. Without traces the context traces nothing.
    """
    sdk_log = SdkLog()
    sdk_log.listen()
    outage = Outage(reason=lambda: sdk_log.last_error)
    resource = _resource(service_version)
    pipelines = []
    for signal, build in (("traces", _traces), ("metrics", _metrics)):
        if not _is_enabled(signal):
            continue
        chosen = _protocol(signal, protocol)
        if chosen is None:
            continue
        try:
            pipelines.append(build(chosen, resource, service_version, outage))
        except Exception as error:
            event(
                _logger,
                logging.WARNING,
                "invalid OTEL_* variable; nothing exported",
                signal=signal,
                reason=describe(error, phi=True),  # its text is about the environment
            )
        else:
            event(_logger, logging.INFO, "telemetry export started", signal=signal, protocol=chosen)
    sdk_log.starting, sdk_log.last_error = False, None
    signals = [pipeline.signal for pipeline in pipelines]
    trace = next((signal for signal in signals if isinstance(signal, TraceContext)), TraceContext())
    return (*signals, *(Export(pipeline) for pipeline in pipelines)), trace


class Pipeline(NamedTuple):
    """One signal (traces or metrics): the observer that produces its data, and the functions that
    end its export."""

    signal: Observer
    shut_down: Callable[[], None]
    """Function that exports what is buffered, and returns when that is done or soon after
    `break_off` was called."""
    break_off: Callable[[], None]
    """Function that makes all further exports fail."""


class Export(Observer):
    """Ends the export of one signal at shutdown, within the timeout."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def shutdown(self, timeout_s: float) -> None:
        thread = NamedThread(target=self._finish, name="ox-otlp-finish", daemon=True)
        thread.start()
        thread.join(timeout_s * _FLUSH_SHARE)
        self._pipeline.break_off()
        thread.join(timeout_s * (1 - _FLUSH_SHARE))

    def _finish(self) -> None:
        try:
            self._pipeline.shut_down()
        except Exception as error:
            event(_logger, logging.WARNING, "telemetry lost at shutdown", exc_info=error)


class SdkLog(logging.Handler):
    """Receives the log of the SDK, which contains every failure of every batch.

    `last_error` is the text of the latest record that gives a reason, or else of the first record;
    None before that. Warnings are logged only while `starting` is True, when they are about
    settings.
    """

    def __init__(self) -> None:
        super().__init__()
        self.starting = True
        self.last_error: str | None = None

    def listen(self) -> None:
        """Become the only handler of the SDK's loggers."""
        logger = logging.getLogger("opentelemetry")
        logger.propagate = False
        logger.handlers = [self]

    def emit(self, record: logging.LogRecord) -> None:
        if self.starting and record.levelno >= logging.WARNING:
            # Only the template: the arguments may contain the secret of a header.
            event(_logger, logging.WARNING, "OpenTelemetry SDK warning", complaint=str(record.msg))
        has_reason = isinstance(record.args, tuple) and len(record.args) > 1
        if has_reason or self.last_error is None:
            try:
                self.last_error = record.getMessage()[:300]
            except Exception:
                self.last_error = str(record.msg)


class Outage:
    """Logs when exports begin to fail and when they succeed again.

    It logs at most one warning per outage and per WARN_EVERY_S seconds. May be called from any
    thread. `reason` returns the reason of the latest failure, None if it is
    unknown. `clock` returns seconds.
    """

    def __init__(
        self,
        reason: Callable[[], str | None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reason = reason
        self._clock = clock
        self._lock = threading.Lock()
        self._failing: set[_Signal] = set()
        self._warned_at: float | None = None
        self._logged = False

    def exported(self, signal: _Signal, ok: bool) -> None:
        """Record the result of one export of `signal`: whether it was successful."""
        with self._lock:
            if ok:
                self._failing.discard(signal)
                if self._logged and not self._failing:
                    self._logged = False
                    event(_logger, logging.INFO, "telemetry export resumed")
                return
            self._failing.add(signal)
            now = self._clock()
            if not self._logged and (
                self._warned_at is None or now - self._warned_at >= WARN_EVERY_S
            ):
                self._logged, self._warned_at = True, now
                event(
                    _logger,
                    logging.WARNING,
                    "telemetry export failed; data beyond the buffers is lost",
                    signal=signal,
                    reason=self._reason(),
                )


class _OutageLoggingSpanExporter(SpanExporter):
    """Exports through `exporter` and reports each result to `outage`.

    After `shutdown` every export fails.
    """

    def __init__(self, exporter: SpanExporter, outage: Outage) -> None:
        self._exporter = exporter
        self._outage = outage
        self._closed = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        if not self._closed.is_set():
            result = self._exporter.export(spans)
        self._outage.exported("traces", result is SpanExportResult.SUCCESS)
        return result

    def shutdown(self) -> None:
        if not self._closed.is_set():
            self._closed.set()
            self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class _OutageLoggingMetricExporter(MetricExporter):
    """Exports through `exporter` and reports each result to `outage`.

    After `shutdown` every export fails.
    """

    def __init__(self, exporter: MetricExporter, outage: Outage) -> None:
        # The metric reader uses these two of its exporter; `exporter` has read the environment.
        super().__init__(exporter._preferred_temporality, exporter._preferred_aggregation)
        self._exporter = exporter
        self._outage = outage
        self._closed = threading.Event()

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: object
    ) -> MetricExportResult:
        result = MetricExportResult.FAILURE
        if not self._closed.is_set():
            result = self._exporter.export(metrics_data, timeout_millis)
        self._outage.exported("metrics", result is MetricExportResult.SUCCESS)
        return result

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: object) -> None:
        if not self._closed.is_set():
            self._closed.set()
            self._exporter.shutdown()

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def _traces(protocol: _Protocol, resource: Resource, version: str, outage: Outage) -> Pipeline:
    exporter = _OutageLoggingSpanExporter(_span_exporter(protocol), outage)
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    spans = Spans(provider.get_tracer("oxidicom", version))
    return Pipeline(spans, provider.shutdown, exporter.shutdown)


def _metrics(protocol: _Protocol, resource: Resource, version: str, outage: Outage) -> Pipeline:
    exporter = _OutageLoggingMetricExporter(_metric_exporter(protocol), outage)
    provider = MeterProvider(
        [PeriodicExportingMetricReader(exporter)], resource=resource, shutdown_on_exit=False
    )
    measurements = Measurements(provider.get_meter("oxidicom", version))
    return Pipeline(measurements, provider.shutdown, exporter.shutdown)


def _span_exporter(protocol: _Protocol) -> SpanExporter:
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc import trace_exporter as over_grpc

        return over_grpc.OTLPSpanExporter()
    from opentelemetry.exporter.otlp.proto.http import trace_exporter as over_http

    return over_http.OTLPSpanExporter()


def _metric_exporter(protocol: _Protocol) -> MetricExporter:
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc import metric_exporter as over_grpc

        return over_grpc.OTLPMetricExporter(preferred_aggregation=_aggregation())
    from opentelemetry.exporter.otlp.proto.http import metric_exporter as over_http

    return over_http.OTLPMetricExporter(preferred_aggregation=_aggregation())


def _aggregation() -> dict[type, Aggregation] | None:
    """Return the aggregation for histograms: exponential ones, whose bounds adapt to the values.

    Return None if the environment sets the aggregation.
    """
    if _variable("metrics", "EXPORTER_OTLP_{}_DEFAULT_HISTOGRAM_AGGREGATION"):
        return None  # the SDK reads the variable itself
    return {Histogram: ExponentialBucketHistogramAggregation()}


def _variable(signal: str, name: str) -> str:
    return os.environ.get(f"OTEL_{name.format(signal.upper())}", "").strip()


def _is_enabled(signal: str) -> bool:
    """Return whether `signal` is exported.

    It is if the SDK is not disabled, the exporter is `otlp`, and an endpoint is set. Logs a warning
    if the exporter is neither `otlp` nor `none`, unless the SDK is disabled.
    """
    if _variable(signal, "SDK_DISABLED").lower() == "true":
        return False
    exporter = _variable(signal, "{}_EXPORTER").lower() or "otlp"
    if exporter not in ("otlp", "none"):
        event(
            _logger,
            logging.WARNING,
            "unknown telemetry exporter; nothing exported",
            variable=f"OTEL_{signal.upper()}_EXPORTER",
        )
    endpoint = _variable(signal, "EXPORTER_OTLP_{}_ENDPOINT")
    return exporter == "otlp" and bool(endpoint or _variable(signal, "EXPORTER_OTLP_ENDPOINT"))


def _protocol(signal: str, general: str) -> _Protocol | None:
    protocol = _variable(signal, "EXPORTER_OTLP_{}_PROTOCOL").lower() or general
    if protocol == "grpc":
        return "grpc"
    if protocol == "http/protobuf":
        return "http/protobuf"
    event(
        _logger,
        logging.WARNING,
        "unknown OTLP protocol; nothing exported",
        signal=signal,
        protocol=protocol,
    )
    return None


def _resource(service_version: str) -> Resource:
    """Return the attributes that identify this process in all signals.

    `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` take precedence.
    """
    defaults = {
        "service.name": "oxidicom",
        "service.version": service_version,
        "service.instance.id": str(uuid.uuid4()),
    }
    return Resource.create(defaults).merge(OTELResourceDetector().detect())
