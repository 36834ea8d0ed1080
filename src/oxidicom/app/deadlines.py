"""How long each part of a shutdown may take (decision 38).

Everything follows from `OXIDICOM_DRAIN_TIMEOUT`: associations may end within it, and everything
else ends soon after. A service manager must allow `ShutdownBudget.total_s` and a little more before
it kills the receiver.

    one process        associations  last instances  writer threads  control plane    loop
    several workers    associations  last instances  writer threads  last reports
                       killed workers  control plane  loop

The control plane gets what the parts before it have left of its time, at least
`ShutdownBudget.least_control_plane_s`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

AFTER_DRAIN_S: Final = 5.0
"""Seconds after the drain time-out within which the control plane has finished (decision 38)."""

NATS_FLUSH_S: Final = 1.0
"""Seconds for which a NATS server that does not answer is waited for, however much time is left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShutdownBudget:
    """Seconds for each part of a shutdown, in the order in which they follow each other."""

    associations_s: float
    """Seconds in which associations that send may continue and end: `OXIDICOM_DRAIN_TIMEOUT`."""
    last_instances_s: float = 2.5
    """Seconds for instances that are in flight when that time is over."""
    writer_threads_s: float = 1.0
    """Seconds for writer threads to end."""
    last_reports_s: float = 0.3
    """Seconds for a worker to send its last reports and to exit."""
    killed_workers_s: float = 0.5
    """Seconds for workers to end that were late and have been killed."""
    after_drain_s: float = AFTER_DRAIN_S
    """Seconds from the end of the associations' time to the end of the control plane's work."""
    control_loop_s: float = 0.5
    """Seconds for the control plane's loop to end."""

    @property
    def data_plane_s(self) -> float:
        """Seconds until a data plane has drained."""
        return self.associations_s + self.last_instances_s + self.writer_threads_s

    @property
    def workers_s(self) -> float:
        """Seconds until workers have ended; a worker that is late is killed."""
        return self.data_plane_s + self.last_reports_s

    @property
    def total_s(self) -> float:
        """Seconds from SIGTERM to the end of the process."""
        return self.associations_s + self.after_drain_s + self.control_loop_s

    def least_control_plane_s(self, workers: int) -> float:
        """Return the seconds that the control plane has if all parts before take all their time."""
        several = self.workers_s + self.killed_workers_s
        before = self.data_plane_s if workers == 1 else several
        return self.associations_s + self.after_drain_s - before

    def control_plane_s(self, workers: int, elapsed_s: float) -> float:
        """Return the seconds for the control plane, `elapsed_s` seconds after SIGTERM.

        A part that took more than its share, on a loop that hung, leaves the least share at least.
        """
        remaining = self.associations_s + self.after_drain_s - elapsed_s
        return max(self.least_control_plane_s(workers), min(self.after_drain_s, remaining))


@dataclass(frozen=True, slots=True)
class ControlPlaneDeadlines:
    """When each part of the control plane's end is over, on the clock of `start`.

    Each part has what the parts before it have left of their time, too; a part that hangs does not
    take the time of those after it.
    """

    eager_registration: float
    registrations: float
    """Complete series are in the outbox."""
    outbox: float
    """Registrations are delivered."""
    publisher: float
    """The connection to the broker or to CUBE is closed."""
    nats_flush: float
    nats_close: float
    telemetry: float
    """Spans and metrics are exported."""
    lease: float
    """Other receivers on the state folder know that this one has left nothing."""
    admin: float
    """The admin endpoint has ended its streams."""

    @classmethod
    def of(cls, within_s: float, start: float) -> ControlPlaneDeadlines:
        """Share `within_s` seconds from `start`; the figures are shares that have passed by then.

        Of 5 s a hung broker leaves NATS 0.6 s, and both leave telemetry 0.2 s.
        """
        return cls(
            eager_registration=start + within_s * 0.10,
            registrations=start + within_s * 0.50,
            outbox=start + within_s * 0.68,
            publisher=start + within_s * 0.72,
            nats_flush=start + within_s * 0.84,
            nats_close=start + within_s * 0.86,
            telemetry=start + within_s * 0.90,
            lease=start + within_s * 0.91,
            admin=start + within_s * 0.98,
        )
