"""Telemetry of a receiver: logs, traces and metrics, without patient data (decision 39)."""

from __future__ import annotations

import logging
from typing import Final, NamedTuple

from oxidicom.logevents import event
from oxidicom.observers import Observer, TraceContext

_logger = logging.getLogger("oxidicom.telemetry")


class Telemetry(NamedTuple):
    """The observers that export from this process, and the trace context of their spans."""

    observers: tuple[Observer, ...]
    trace: TraceContext


NO_TELEMETRY: Final = Telemetry((), TraceContext())


def start(*, enabled: bool, protocol: str, service_version: str) -> Telemetry:
    """Start the export of traces and metrics if `enabled` (an OTLP endpoint is set).

    `protocol` is `grpc` or `http/protobuf`; the SDK reads endpoints, headers and the other
    `OTEL_*` variables from the environment. An invalid variable is logged as a warning, and its
    signal is not exported. Never raises: if the start fails, a warning is logged and NO_TELEMETRY
    returned. Call this in the process that exports, after the fork that created it.
    """
    if not enabled:
        return NO_TELEMETRY
    # Imported only if needed, because it takes a second and 30 MB of memory.
    from oxidicom.telemetry import otlp

    try:
        return Telemetry(*otlp.start(protocol, service_version))
    except Exception as error:
        event(_logger, logging.WARNING, "telemetry could not be started", exc_info=error)
        return NO_TELEMETRY
