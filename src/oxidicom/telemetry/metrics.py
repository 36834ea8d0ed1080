"""Metrics for OTLP: histograms, and counts that the exporter's thread reads at intervals."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from oxidicom.association_tally import AssociationTally
from oxidicom.observers import (
    STORE_LATENCY_BUCKETS_S,
    Observer,
    RegistrationOutcome,
    SeriesRegistered,
    exportable,
)
from oxidicom.ports import (
    AssociationBegan,
    AssociationEnded,
    CountQueryResult,
    InstanceRefused,
    InstanceStored,
    SeriesCompleted,
    SeriesKey,
)
from oxidicom.telemetry.tracing import MAX_ATTRIBUTE_CHARS, MAX_TRACKED

MAX_TITLES: Final = 256
"""Greatest number of calling AE titles that have a time series of their own. Peers choose the
titles, so the number must be bounded."""

OTHER_TITLES: Final = "(other)"
"""Value of the attribute `aet` for calling AE titles beyond MAX_TITLES."""

DURATION_BUCKETS_S: Final = (0.01, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
"""Upper bounds of the buckets of durations, in seconds: from one small instance to a study
over a slow line."""

INSTANCE_SIZE_BUCKETS: Final = tuple(1 << power for power in range(12, 32, 2))
"""Upper bounds of the buckets of instance sizes, in bytes: from 4 KiB to 1 GiB."""

_Read = Callable[[CallbackOptions], Iterable[Observation]]


class Measurements(Observer):
    """Counts the events of the control plane for the instruments of `meter`."""

    def __init__(self, meter: Meter) -> None:
        self._titles: dict[str, str] = {}
        self._open: dict[str, AssociationBegan] = {}
        self._first_stored_ns: dict[SeriesKey, int] = {}
        """Time at which the first instance of each open series was stored, in nanoseconds since the
        epoch."""
        self._associations: Counter[tuple[str, str]] = Counter()
        self._instances: Counter[int] = Counter()
        self._registered: Counter[str] = Counter()
        self._count_queries: Counter[str] = Counter()
        self._bytes = 0
        self._depth = 0
        self._dropped = 0
        self._create_histograms(meter)
        self._create_reception_counters(meter)
        self._create_registration_counters(meter)

    def _create_histograms(self, meter: Meter) -> None:
        self._latencies = meter.create_histogram(
            "oxidicom.store.latency",
            "s",
            "From the last fragment of an instance to the file under its final name",
            explicit_bucket_boundaries_advisory=STORE_LATENCY_BUCKETS_S,
        )
        self._sizes = meter.create_histogram(
            "oxidicom.instance.size",
            "By",
            "Size of a stored data set",
            explicit_bucket_boundaries_advisory=INSTANCE_SIZE_BUCKETS,
        )
        self._association_durations = meter.create_histogram(
            "oxidicom.association.duration",
            "s",
            "From the begin of an association to its end",
            explicit_bucket_boundaries_advisory=DURATION_BUCKETS_S,
        )
        self._series_durations = meter.create_histogram(
            "oxidicom.series.duration",
            "s",
            "From the first instance of a series to its completion, settle time included",
            explicit_bucket_boundaries_advisory=DURATION_BUCKETS_S,
        )
        self._registration_durations = meter.create_histogram(
            "oxidicom.series.registration.duration",
            "s",
            "From the completion of a series to the confirmation by CUBE or its broker",
            explicit_bucket_boundaries_advisory=DURATION_BUCKETS_S,
        )

    def _create_reception_counters(self, meter: Meter) -> None:
        meter.create_observable_counter(
            "oxidicom.associations",
            [self._read_associations],
            "{association}",
            "Associations that have ended",
        )
        meter.create_observable_up_down_counter(
            "oxidicom.associations.open",
            [_reader(lambda: len(self._open))],
            "{association}",
            "Associations that are open",
        )
        meter.create_observable_counter(
            "oxidicom.instances",
            [self._read_instances],
            "{instance}",
            "Instances answered, by status",
        )
        meter.create_observable_counter(
            "oxidicom.bytes", [_reader(lambda: self._bytes)], "By", "Bytes of data sets stored"
        )

    def _create_registration_counters(self, meter: Meter) -> None:
        meter.create_observable_gauge(
            "oxidicom.outbox.depth",
            [_reader(lambda: self._depth)],
            "{registration}",
            "Registrations that wait in the outbox",
        )
        meter.create_observable_counter(
            "oxidicom.lonk.dropped",
            [_reader(lambda: self._dropped)],
            "{message}",
            "Progress messages that were dropped",
        )
        meter.create_observable_counter(
            "oxidicom.series.registered",
            [self._read_registered],
            "{series}",
            "Series whose registration ended, or waits",
        )
        meter.create_observable_counter(
            "oxidicom.series.asked",
            [self._read_asked],
            "{series}",
            "Count queries to a PACS, one for each series",
        )

    def association_began(self, association: AssociationTally) -> None:
        began = association.began
        self._open[began.association_id] = began
        if len(self._open) > MAX_TRACKED:
            del self._open[next(iter(self._open))]

    def instance_stored(self, report: InstanceStored) -> None:
        self._instances[0] += 1
        self._bytes += report.size
        self._latencies.record(report.seconds)
        self._sizes.record(report.size)
        key = report.series.key
        if key not in self._first_stored_ns:
            self._first_stored_ns[key] = time.time_ns()
            if len(self._first_stored_ns) > MAX_TRACKED:
                del self._first_stored_ns[next(iter(self._first_stored_ns))]

    def instance_refused(self, report: InstanceRefused) -> None:
        self._instances[report.status] += 1

    def association_ended(self, report: AssociationEnded) -> None:
        began = self._open.pop(report.association_id, None)
        if began is not None:
            result = _result(report.error)
            self._associations[self._title(began.calling_ae_title), result] += 1
            seconds = max(0, report.wall_ns - began.wall_ns) / 1e9
            self._association_durations.record(seconds, {"result": result})

    def series_completed(self, completed: SeriesCompleted) -> None:
        first_ns = self._first_stored_ns.pop(completed.series.key, None)
        if first_ns is not None:  # it is None for a series that was recovered at the start
            self._series_durations.record(max(0, time.time_ns() - first_ns) / 1e9)

    def series_registered(self, registered: SeriesRegistered) -> None:
        if registered.outcome is RegistrationOutcome.WAITING:
            result = "waiting"  # its `error` may be temporary
        else:
            result = _result(registered.error)
        self._registered[result] += 1
        seconds = max(0, registered.ended_ns - registered.started_ns) / 1e9
        self._registration_durations.record(seconds, {"result": result})

    def count_query_ended(self, result: CountQueryResult) -> None:
        self._count_queries["unknown" if result.expected is None else "counted"] += 1

    def outbox_depth(self, depth: int) -> None:
        self._depth = depth

    def lonk_dropped(self, count: int) -> None:
        self._dropped += count

    def _title(self, title: str) -> str:
        if title not in self._titles and len(self._titles) < MAX_TITLES:
            self._titles[title] = exportable(title, MAX_ATTRIBUTE_CHARS)
        return self._titles.get(title, OTHER_TITLES)

    # These run on the exporter's thread. They copy each counter, which is atomic, before iterating.

    def _read_associations(self, _: CallbackOptions) -> Iterable[Observation]:
        for (title, result), count in dict(self._associations).items():
            yield Observation(count, {"aet": title, "result": result})

    def _read_instances(self, _: CallbackOptions) -> Iterable[Observation]:
        for status, count in dict(self._instances).items():
            yield Observation(count, {"status": f"{status:04X}"})

    def _read_asked(self, _: CallbackOptions) -> Iterable[Observation]:
        for result, count in dict(self._count_queries).items():
            yield Observation(count, {"result": result})

    def _read_registered(self, _: CallbackOptions) -> Iterable[Observation]:
        for result, count in dict(self._registered).items():
            yield Observation(count, {"result": result})


def _reader(value: Callable[[], int]) -> _Read:
    def read(_: CallbackOptions) -> Iterable[Observation]:
        yield Observation(value())

    return read


def _result(error: str | None) -> str:
    return "ok" if error is None else "error"
