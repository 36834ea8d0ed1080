"""Observers receive the events of the control plane: spans, metrics, status board, LONK.

To add one, derive a class from `Observer`, define the methods for the events that it needs, and
add an instance of it to the list in `ControlHost`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import Final, NamedTuple, TypeVar

from oxidicom.association_tally import AssociationTally
from oxidicom.logevents import event
from oxidicom.ports import (
    AssociationEnded,
    CountQueryResult,
    InstanceRefused,
    InstanceStored,
    SeriesCompleted,
    SeriesFailed,
    SeriesInfo,
    SeriesKey,
    SeriesProgress,
)
from oxidicom.thread_names import NamedThread

_logger: Final = logging.getLogger("oxidicom.control")

T = TypeVar("T")

STORE_LATENCY_BUCKETS_S: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10
)  # fmt: skip
"""Upper bounds of the histogram buckets of store latency: from a rename in memory to storage that
hangs."""


class RegistrationOutcome(Enum):
    """The outcome of the registration of a complete series."""

    CONFIRMED = "confirmed"
    """CUBE, or its broker, has it."""
    WAITING = "waiting"
    """It is in the outbox and has not been confirmed yet."""
    REFUSED = "refused"
    """It will never be accepted; it is kept in the outbox folder as a refused entry."""
    EMPTY = "empty"
    """The series folder holds no instance, so there was nothing to register."""
    FAILED = "failed"
    """It did not reach the outbox; the journal still has the series."""


class SeriesCounted(NamedTuple):
    """The files of a complete series were counted; its registration follows."""

    series: SeriesInfo
    received: int
    """Distinct instances of this session."""
    ndicom: int
    """Instances in the series folder."""


class SeriesRegistered(NamedTuple):
    """The registration of a complete series ended, or waits in the outbox.

    Times are nanoseconds since the epoch: from the completion of the series to the confirmation
    by CUBE or its broker, or to the decision not to wait for it.
    """

    series: SeriesInfo
    associations: tuple[str, ...]
    """The same ones as in `SeriesCompleted`."""
    received: int
    """Distinct instances of this session."""
    ndicom: int
    """Instances in the series folder; 0 if they were not counted."""
    started_ns: int
    ended_ns: int
    outcome: RegistrationOutcome
    error: str | None
    """Why the registration is not confirmed, without patient data; None if it is confirmed."""
    expected: int | None = None
    """Number of instances that the PACS holds; None if unknown."""


class RegistrationResolved(NamedTuple):
    """A registration left the outbox: it was delivered, or it was refused."""

    series: SeriesKey
    refusal: str | None
    """Why it was refused; None if it was delivered."""


class HttpRegistration(NamedTuple):
    """One attempt to register one file over HTTP, successful or not."""

    series: SeriesInfo
    association_id: str | None
    url: str
    file: str | None
    """Path of the file, which holds patient data: None unless that is allowed."""
    started_ns: int
    ended_ns: int
    retries: tuple[tuple[int, str, float], ...] = ()
    """Pauses between requests: nanoseconds since the epoch, the error, and seconds."""
    error: str | None = None
    metadata: tuple[str, str] | None = None
    """Key and value of custom metadata; None if the file is an instance."""
    traceparent: str | None = None
    """Identifies the span that `TraceContext.begin_http_registration` opened."""


class HttpSeriesRegistration(NamedTuple):
    """One attempt to register all instances of a complete series over HTTP, successful or not."""

    association_id: str | None
    """ULID of the first association that carried the series; None if unknown."""
    association_uuid: str
    """UUID of the same association; the task id of the outbox entry if unknown."""
    started_ns: int
    ended_ns: int
    error: str | None


class Observer:
    """Base class of observers; each method does nothing unless a derived class defines it.

    All methods but `shutdown` are called on the thread of the control plane; they must take
    microseconds and must not block. What they raise is logged. Error texts in the records hold no
    patient data.
    """

    def association_began(self, association: AssociationTally) -> None:
        """Receive the counts of a new association, which the control plane keeps up to date."""

    def instance_stored(self, report: InstanceStored) -> None:
        """Receive a stored instance, already counted in the tally of its association."""

    def instance_refused(self, report: InstanceRefused) -> None:
        """Receive a refused instance, already counted in the tally of its association."""

    def association_ended(self, report: AssociationEnded) -> None:
        """Receive the end of an association, after its last instance."""

    def series_progressed(self, progress: SeriesProgress) -> None:
        """Receive the number of distinct instances after a new one was stored."""

    def series_failed(self, failed: SeriesFailed) -> None:
        """Receive the error of an instance that was refused, for the users of its series."""

    def series_completed(self, completed: SeriesCompleted) -> None:
        """Receive a series whose registration begins; `series_registered` follows."""

    def series_counted(self, counted: SeriesCounted) -> None:
        """Receive the final count of a complete series, before it goes to the outbox."""

    def series_registered(self, registered: SeriesRegistered) -> None:
        """Receive the outcome of the registration of a complete series."""

    def registration_resolved(self, resolved: RegistrationResolved) -> None:
        """Receive the end of a registration's time in the outbox, perhaps days later."""

    def http_registration_ended(self, registration: HttpRegistration) -> None:
        """Receive one attempt to register an instance or custom metadata over HTTP."""

    def http_series_registration_ended(self, registration: HttpSeriesRegistration) -> None:
        """Receive one attempt to register all instances of a complete series over HTTP."""

    def count_query_ended(self, result: CountQueryResult) -> None:
        """Receive the result of a count query to a PACS."""

    def outbox_depth(self, depth: int) -> None:
        """Receive the number of registrations that wait in the outbox."""

    def lonk_dropped(self, count: int) -> None:
        """Receive the number of progress messages dropped since the last call."""

    def shutdown(self, timeout_s: float) -> None:
        """Export what is buffered, within `timeout_s` seconds. Called last, on a thread of its own,
        so it may block."""


class Observers(Observer):
    """Forwards each event to a list of observers, in order.

    An observer that raises does not keep the event from the others; the error of each of its
    methods is logged once. After `shutdown` events are dropped.
    """

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = tuple(observers)
        # These two events occur for every instance, so observers that ignore them are not called.
        self._on_stored = tuple(
            each.instance_stored
            for each in observers
            if type(each).instance_stored is not Observer.instance_stored
        )
        self._on_progressed = tuple(
            each.series_progressed
            for each in observers
            if type(each).series_progressed is not Observer.series_progressed
        )
        self._failures = FailureLog()

    def instance_stored(self, report: InstanceStored) -> None:
        for handler in self._on_stored:
            try:
                handler(report)
            except Exception as error:
                self._failures.log(handler, error)

    def series_progressed(self, progress: SeriesProgress) -> None:
        for handler in self._on_progressed:
            try:
                handler(progress)
            except Exception as error:
                self._failures.log(handler, error)

    def association_began(self, association: AssociationTally) -> None:
        self._forward([each.association_began for each in self._observers], association)

    def instance_refused(self, report: InstanceRefused) -> None:
        self._forward([each.instance_refused for each in self._observers], report)

    def association_ended(self, report: AssociationEnded) -> None:
        self._forward([each.association_ended for each in self._observers], report)

    def series_failed(self, failed: SeriesFailed) -> None:
        self._forward([each.series_failed for each in self._observers], failed)

    def series_completed(self, completed: SeriesCompleted) -> None:
        self._forward([each.series_completed for each in self._observers], completed)

    def series_counted(self, counted: SeriesCounted) -> None:
        self._forward([each.series_counted for each in self._observers], counted)

    def series_registered(self, registered: SeriesRegistered) -> None:
        self._forward([each.series_registered for each in self._observers], registered)

    def registration_resolved(self, resolved: RegistrationResolved) -> None:
        self._forward([each.registration_resolved for each in self._observers], resolved)

    def http_registration_ended(self, registration: HttpRegistration) -> None:
        self._forward([each.http_registration_ended for each in self._observers], registration)

    def http_series_registration_ended(self, registration: HttpSeriesRegistration) -> None:
        self._forward(
            [each.http_series_registration_ended for each in self._observers], registration
        )

    def count_query_ended(self, result: CountQueryResult) -> None:
        self._forward([each.count_query_ended for each in self._observers], result)

    def outbox_depth(self, depth: int) -> None:
        self._forward([each.outbox_depth for each in self._observers], depth)

    def lonk_dropped(self, count: int) -> None:
        self._forward([each.lonk_dropped for each in self._observers], count)

    def shutdown(self, timeout_s: float) -> None:
        """Shut all observers down at the same time; those that take longer are abandoned."""
        deadline = time.monotonic() + timeout_s
        observers, self._observers = self._observers, ()
        self._on_stored = self._on_progressed = ()
        threads = [
            NamedThread(
                target=self._forward,
                args=([each.shutdown], timeout_s),
                name="ox-observer-end",
                daemon=True,
            )
            for each in observers
            if type(each).shutdown is not Observer.shutdown
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _forward(self, handlers: Iterable[Callable[[T], None]], record: T) -> None:
        for handler in handlers:
            try:
                handler(record)
            except Exception as error:
                self._failures.log(handler, error)


class FailureLog:
    """Logs the first error of each method of an observer."""

    def __init__(self) -> None:
        self._logged: set[str] = set()

    def log(self, method: Callable[..., object], error: Exception) -> None:
        name = getattr(method, "__qualname__", type(method).__name__)
        if name not in self._logged:
            self._logged.add(name)
            event(_logger, logging.ERROR, "observer failed", observer=name, exc_info=error)


class TraceContext:
    """Provides the `traceparent` (W3C Trace Context) of spans, for the log and requests to CUBE.

    The methods of this base class return None: nothing is traced. Methods never raise.
    """

    def of_association(self, association_id: str) -> str | None:
        """Return the `traceparent` of an association's span, even if that has ended."""
        return None

    def begin_registration(self, completed: SeriesCompleted, started_ns: int) -> str | None:
        """Open the span of a registration and return its `traceparent`.

        `Observer.series_registered` ends the span.
        """
        return None

    def begin_http_registration(self, association_id: str | None, started_ns: int) -> str | None:
        """Open the span of an HTTP registration and return its `traceparent`.

        `Observer.http_registration_ended` ends the span of the `traceparent` in its record.
        """
        return None


def exportable(text: str, max_chars: int) -> str:
    """Return `text` cut to `max_chars` characters and without lone surrogates.

    Peers choose these texts; one that UTF-8 cannot encode would lose its whole batch in OTLP.
    """
    return text[:max_chars].encode("utf-8", "replace").decode()
