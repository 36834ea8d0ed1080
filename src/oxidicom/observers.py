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
"""Upper bounds of the histogram buckets of store latency, in seconds: from a rename in memory to
storage that hangs."""


class RegistrationOutcome(Enum):
    """The outcome of the registration of a complete series."""

    CONFIRMED = "confirmed"
    """CUBE or its broker has confirmed the registration."""
    WAITING = "waiting"
    """The registration is in the outbox and has not been confirmed yet."""
    REFUSED = "refused"
    """CUBE or its broker refused the registration, which is kept as a refused outbox entry."""
    EMPTY = "empty"
    """The series folder holds no instance, so there was nothing to register."""
    FAILED = "failed"
    """An error ended the registration. The next start retries it if the journal has the series."""


class SeriesCounted(NamedTuple):
    """The final count of a complete series. Its registration follows unless `ndicom` is 0."""

    series: SeriesInfo
    received: int
    """Distinct instances of this session."""
    ndicom: int
    """Instances in the series folder."""


class SeriesRegistered(NamedTuple):
    """The outcome of the registration of a complete series.

    `started_ns` is the time at which the registrar received the complete series; `ended_ns` is the
    time at which `outcome` was known. Both are nanoseconds since the epoch.
    """

    series: SeriesInfo
    associations: tuple[str, ...]
    """ULIDs of the associations that carried the series, as in `SeriesCompleted`."""
    received: int
    """Distinct instances of this session."""
    ndicom: int
    """Instances in the series folder; always 0 if the registration failed."""
    started_ns: int
    ended_ns: int
    outcome: RegistrationOutcome
    error: str | None
    """Why the registration is not confirmed, without patient data; None if it is confirmed."""
    expected: int | None = None
    """Number of instances that the PACS holds; None if unknown."""


class RegistrationResolved(NamedTuple):
    """The end of a pending registration: it was delivered or refused."""

    series: SeriesKey
    refusal: str | None
    """Why it was refused; None if it was delivered."""


class HttpRegistration(NamedTuple):
    """One attempt to register one file over HTTP, successful or not."""

    series: SeriesInfo
    association_id: str | None
    url: str
    file: str | None
    """Path of the file. It contains patient data, so it is None unless their export is allowed."""
    started_ns: int
    ended_ns: int
    retries: tuple[tuple[int, str, float], ...] = ()
    """One item for each pause before a repeated request: its time in nanoseconds since the epoch,
    the error of the failed request, and the length of the pause in seconds."""
    error: str | None = None
    """Why the attempt failed; None if it succeeded."""
    metadata: tuple[str, str] | None = None
    """Key and value of custom metadata; None if the file is an instance."""
    traceparent: str | None = None
    """The result of `TraceContext.begin_http_registration` for this attempt."""


class HttpSeriesRegistration(NamedTuple):
    """One attempt to register all instances of a complete series over HTTP, successful or not."""

    association_id: str | None
    """ULID of the first association that carried the series; None if unknown."""
    association_uuid: str
    """UUID of the same association; if that is unknown, the task id of the outbox entry."""
    started_ns: int
    ended_ns: int
    error: str | None
    """Why the attempt failed; None if it succeeded."""


class Observer:
    """Base class of observers. Each method does nothing unless a derived class overrides it.

    All methods except `shutdown` are called on the thread of the control plane: they must return
    within microseconds and must not block. Their exceptions are logged. Error texts in the records
    contain no patient data.
    """

    def association_began(self, association: AssociationTally) -> None:
        """Receive the tally of a new association. The control plane updates it until the end."""

    def instance_stored(self, report: InstanceStored) -> None:
        """Receive a stored instance, already counted in the tally of its association."""

    def instance_refused(self, report: InstanceRefused) -> None:
        """Receive a refused instance, already counted in the tally of its association."""

    def association_ended(self, report: AssociationEnded) -> None:
        """Receive the end of an association, after its last instance."""

    def series_progressed(self, progress: SeriesProgress) -> None:
        """Receive the new number of distinct instances of a series."""

    def series_failed(self, failed: SeriesFailed) -> None:
        """Receive the LONK error of an instance that was refused."""

    def series_completed(self, completed: SeriesCompleted) -> None:
        """Receive a complete series, whose registration begins.

        `series_registered` follows, unless the receiver stops first.
        """

    def series_counted(self, counted: SeriesCounted) -> None:
        """Receive the final count of a complete series, before its registration is written."""

    def series_registered(self, registered: SeriesRegistered) -> None:
        """Receive the outcome of the registration of a complete series."""

    def registration_resolved(self, resolved: RegistrationResolved) -> None:
        """Receive a registration that is no longer pending, perhaps days after its series."""

    def http_registration_ended(self, registration: HttpRegistration) -> None:
        """Receive one attempt to register an instance or custom metadata over HTTP."""

    def http_series_registration_ended(self, registration: HttpSeriesRegistration) -> None:
        """Receive one attempt to register all instances of a complete series over HTTP."""

    def count_query_ended(self, result: CountQueryResult) -> None:
        """Receive the result of a count query to a PACS."""

    def outbox_depth(self, depth: int) -> None:
        """Receive the number of registrations that this process has to deliver from the outbox."""

    def lonk_dropped(self, count: int) -> None:
        """Receive the number of progress messages dropped since the last call."""

    def shutdown(self, timeout_s: float) -> None:
        """Export buffered data within `timeout_s` seconds. This is the last call; it may block,
        because it runs on a separate thread for each observer."""


class Observers(Observer):
    """Forwards each event to a list of observers, in order.

    If an observer raises, the others still receive the event; the first error of each method is
    logged. Events after `shutdown` are dropped.
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
        """Shut down all observers in parallel; return after at most `timeout_s` seconds.

        An observer that takes longer continues on its daemon thread.
        """
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
    """Logs the first error of each method of observers; later errors of the method are ignored."""

    def __init__(self) -> None:
        self._logged: set[str] = set()

    def log(self, method: Callable[..., object], error: Exception) -> None:
        name = getattr(method, "__qualname__", type(method).__name__)
        if name not in self._logged:
            self._logged.add(name)
            event(_logger, logging.ERROR, "observer failed", observer=name, exc_info=error)


class TraceContext:
    """Provides the `traceparent` (W3C Trace Context) of spans, for the log and requests to CUBE.

    The methods of this base class return None, because nothing is traced; None also means that a
    span is unknown or could not be opened. Methods never raise.
    """

    def of_association(self, association_id: str) -> str | None:
        """Return the `traceparent` of an association's span, which may have ended."""
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
    """Return `text` cut to `max_chars` characters, with `?` in place of lone surrogates.

    Peers choose these texts, and OTLP drops a whole batch if UTF-8 cannot encode one text in it.
    """
    return text[:max_chars].encode("utf-8", "replace").decode()
