"""What operators see of us: logs, traces and metrics; never patient data (decision 39)."""

from __future__ import annotations

import logging

from oxidicom.logevents import event
from oxidicom.observers import Telemetry

_logger = logging.getLogger("oxidicom.telemetry")

__all__ = ["Telemetry", "start"]


def start(*, enabled: bool, protocol: str, service_version: str) -> Telemetry:
    """The exporting telemetry if `enabled` (an OTLP endpoint is set), else one that does nothing.

    `protocol` is `grpc` or `http/protobuf`; endpoints, headers and the rest of `OTEL_*` are read
    by the SDK from the environment. What is wrong there is a warning: reception goes on. Call it
    in the process that exports, after it has forked.
    """
    if not enabled:
        return Telemetry()
    # A second of imports and 30 MB of memory, for those only who export.
    from oxidicom.telemetry import otlp

    try:
        return otlp.start(protocol, service_version) or Telemetry()
    except Exception as error:
        event(_logger, logging.WARNING, "telemetry could not be started", exc_info=error)
        return Telemetry()
