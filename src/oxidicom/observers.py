"""What telemetry is asked to record; this one drops everything."""

from __future__ import annotations

from typing import Final

from oxidicom.ports import (
    AssociationBegan,
    AssociationEnded,
    HttpRegistration,
    InstanceRefused,
    InstanceStored,
    SeriesAsked,
    SeriesCompleted,
    SeriesInfo,
)

WAITS: Final = "waits in the outbox"
"""The `error` of a series that is not registered yet, though nothing more keeps it from that."""


class Telemetry:
    """Traces and metrics of the control plane; this one, the base, drops everything.

    Methods are called from one thread, take microseconds, never raise and never wait; only
    `shutdown` waits, within its limit. Error texts given here hold no patient data.
    """

    def association_began(self, report: AssociationBegan) -> None: ...

    def instance_stored(self, report: InstanceStored) -> None: ...

    def instance_refused(self, report: InstanceRefused) -> None: ...

    def association_ended(self, report: AssociationEnded) -> None: ...

    def traceparent_of(self, association_id: str) -> str | None:
        """Of the association's span, open or not (W3C Trace Context); None if nobody traces it."""
        return None

    def registration_began(
        self, series: SeriesInfo, associations: tuple[str, ...], started_ns: int
    ) -> str | None:
        """The series is complete; `series_registered` follows, with the same three arguments.

        Returns the `traceparent` of its span, which goes along with the registration."""
        return None

    def series_completed(self, completed: SeriesCompleted) -> None:
        """Its registration begins; `series_registered` follows, of these associations."""

    def series_registered(
        self,
        series: SeriesInfo,
        associations: tuple[str, ...],
        ndicom: int,
        started_ns: int,
        ended_ns: int,
        attempts: int | None,
        error: str | None,
        expected: int | None = None,
    ) -> None:
        """From completion to the broker's confirmation, or to its giving up with `error`.

        Times are nanoseconds since the epoch; `attempts` is None where nobody counted, `expected`
        where no PACS has.
        """

    def push_began(self, association_id: str | None, started_ns: int) -> str | None:
        """`pushed` follows, with the `traceparent` that this returns, which goes along with the
        request."""
        return None

    def pushed(self, push: HttpRegistration) -> None:
        """One instance, or one piece of custom metadata, was registered over HTTP, or was not."""

    def all_pushed(
        self,
        association_id: str | None,
        association_uuid: str,
        started_ns: int,
        ended_ns: int,
        error: str | None,
    ) -> None:
        """All instances of a complete series were registered over HTTP, or were not."""

    def series_asked(self, asked: SeriesAsked) -> None:
        """A PACS was asked how many instances of a series it has."""

    def outbox_depth(self, depth: int) -> None:
        """Registrations that wait in the outbox now."""

    def lonk_dropped(self, count: int) -> None:
        """So many more progress messages were dropped."""

    def shutdown(self, timeout_s: float) -> None:
        """Export what is left, for at most `timeout_s`; nothing is recorded afterwards."""
