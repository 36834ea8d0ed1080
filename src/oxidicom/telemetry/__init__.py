"""What operators see of us: logs, traces and metrics; never patient data (decision 39)."""

from __future__ import annotations

import logging

from oxidicom.logevents import event
from oxidicom.ports import (
    AssociationBegan,
    AssociationEnded,
    InstanceRefused,
    InstanceStored,
    SeriesInfo,
)

_logger = logging.getLogger(__name__)


class Telemetry:
    """Traces and metrics of the control plane; this one, the base, drops everything.

    Methods are called from one thread, take microseconds, never raise and never wait; only
    `shutdown` waits, within its limit. Error texts given here hold no patient data.
    """

    def association_began(self, report: AssociationBegan) -> None: ...

    def instance_stored(self, report: InstanceStored) -> None: ...

    def instance_refused(self, report: InstanceRefused) -> None: ...

    def association_ended(self, report: AssociationEnded) -> None: ...

    def series_registered(
        self,
        series: SeriesInfo,
        associations: tuple[str, ...],
        ndicom: int,
        started_ns: int,
        ended_ns: int,
        attempts: int | None,
        error: str | None,
    ) -> None:
        """From completion to the broker's confirmation, or to its giving up with `error`.

        Times are nanoseconds since the epoch; `attempts` is None where nobody counted.
        """

    def outbox_depth(self, depth: int) -> None:
        """Registrations that wait in the outbox now."""

    def lonk_dropped(self, count: int) -> None:
        """So many more progress messages were dropped."""

    def shutdown(self, timeout_s: float) -> None:
        """Export what is left, for at most `timeout_s`; nothing is recorded afterwards."""


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
