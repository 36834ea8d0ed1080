"""How long each part of a shutdown may take (decision 38).

Associations may end within `OXIDICOM_DRAIN_TIMEOUT`; all other times are fixed and begin after it.
A service manager must wait for somewhat more than `ShutdownBudget.total_s` before it kills the
receiver. The parts follow each other in this order:

    one process        associations  last instances  writer threads  control plane    loop
    several workers    associations  last instances  writer threads  last reports
                       killed workers  control plane  loop

The control plane has until `after_drain_s` seconds after the drain timeout, but at most
`after_drain_s` seconds, and at least `ShutdownBudget.least_control_plane_s`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

AFTER_DRAIN_S: Final = 5.0
"""Seconds from the end of the drain timeout until the control plane has ended (decision 38)."""

NATS_FLUSH_S: Final = 1.0
"""Greatest number of seconds to wait for an answer of the NATS server, even if more are left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShutdownBudget:
    """The time in seconds for each part of a shutdown, in the order in which they happen."""

    associations_s: float
    """Seconds for which associations that send may continue: `OXIDICOM_DRAIN_TIMEOUT`."""
    last_instances_s: float = 2.5
    """Seconds for instances that are in flight when the associations' time is over."""
    writer_threads_s: float = 1.0
    """Seconds for writer threads to end."""
    last_reports_s: float = 0.3
    """Seconds for a worker to send its last reports and to exit."""
    killed_workers_s: float = 0.5
    """Seconds for late workers to end after they were killed."""
    after_drain_s: float = AFTER_DRAIN_S
    """Seconds from the end of the associations' time to the end of the control plane's work."""
    control_loop_s: float = 0.5
    """Seconds for the control plane's loop to end."""

    @property
    def data_plane_s(self) -> float:
        """Seconds from SIGTERM until the data plane has drained."""
        return self.associations_s + self.last_instances_s + self.writer_threads_s

    @property
    def workers_s(self) -> float:
        """Seconds from SIGTERM until workers have ended; then those that run are killed."""
        return self.data_plane_s + self.last_reports_s

    @property
    def total_s(self) -> float:
        """Seconds from SIGTERM to the end of the process."""
        return self.associations_s + self.after_drain_s + self.control_loop_s

    def least_control_plane_s(self, workers: int) -> float:
        """Return the seconds for the control plane if all earlier parts use all their time.

        `workers` is the number of receiving processes.
        """
        several = self.workers_s + self.killed_workers_s
        before = self.data_plane_s if workers == 1 else several
        return self.associations_s + self.after_drain_s - before

    def control_plane_s(self, workers: int, elapsed_s: float) -> float:
        """Return the seconds for the control plane, which begins `elapsed_s` after SIGTERM.

        They are at most `after_drain_s`, and at least `least_control_plane_s` even if an earlier
        part took more than its time.
        """
        remaining = self.associations_s + self.after_drain_s - elapsed_s
        return max(self.least_control_plane_s(workers), min(self.after_drain_s, remaining))


@dataclass(frozen=True, slots=True)
class ControlPlaneDeadlines:
    """The time by which each step of the control plane's shutdown has to end.

    All are in seconds of the clock of `start`. A step may also use the time that earlier steps did
    not need; a step that hangs does not take time from later ones.
    """

    eager_registration: float
    """By then eager registration has stopped."""
    registrations: float
    """By then all complete series are in the outbox."""
    outbox: float
    """By then no further entries of the outbox are delivered."""
    publisher: float
    """By then the connection to the broker or to CUBE is closed."""
    nats_flush: float
    """By then the NATS server has received all LONK messages."""
    nats_close: float
    """By then the connection to NATS is closed."""
    telemetry: float
    """By then spans and metrics are exported."""
    lease: float
    """By then the lease is released, unless series are left to register."""
    admin: float
    """By then the event streams of the admin endpoint have ended."""

    @classmethod
    def of(cls, within_s: float, start: float) -> ControlPlaneDeadlines:
        """Return deadlines that divide the `within_s` seconds after `start`.

        Each factor is the fraction of the time that has passed at a deadline. Of 5 s, NATS has
        0.6 s if the broker hangs, and telemetry 0.2 s if both hang.
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
