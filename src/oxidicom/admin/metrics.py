"""The board's numbers in Prometheus' form. No label has values that a peer chooses."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from oxidicom.admin.status_board import LATENCIES_S, StatusBoard


class Metrics:
    """A registry of our own: the library's default one is everybody's."""

    def __init__(self, board: StatusBoard) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(BoardCollector(board))
        ProcessCollector(registry=self._registry)

    def page(self, accept: str) -> tuple[bytes, str]:
        """Text, and its content type, of the forms that the Accept header allows."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


class BoardCollector(Collector):
    def __init__(self, board: StatusBoard) -> None:
        self._board = board

    def describe(self) -> list[Metric]:
        return []  # or registering would collect

    def collect(self) -> Iterator[Metric]:
        board = self._board
        yield InfoMetricFamily("oxidicom_build", "What runs", {"version": board.version})
        yield from self._reception()
        yield from self._registration()
        readiness = board.readiness()
        yield _gauge("oxidicom_ready", "1 if no check has failed", int(readiness.ready))
        checks = GaugeMetricFamily(
            "oxidicom_check_ok", "0 if degraded or failed", labels=("check",)
        )
        for check in readiness.checks:
            checks.add_metric((check.name,), int(check.state == "ok"))
        yield checks

    def _reception(self) -> Iterator[Metric]:
        board = self._board
        associations = CounterMetricFamily(
            "oxidicom_associations",
            "Associations that have ended: ok is released",
            labels=("result",),
        )
        for result, count in board.associations.items():
            associations.add_metric((result,), count)
        yield associations
        yield _gauge("oxidicom_associations_open", "Associations now", board.associations_open)
        instances = CounterMetricFamily(
            "oxidicom_instances", "Instances answered, by status in hexadecimal", labels=("status",)
        )
        for status, count in board.instances.items():
            instances.add_metric((f"{status:04X}",), count)
        yield instances
        yield _counter("oxidicom_bytes", "Bytes of data sets stored", board.bytes)
        ends = [*map(str, map(float, LATENCIES_S)), "+Inf"]
        buckets = list(zip(ends, accumulate(board.latencies), strict=True))
        yield HistogramMetricFamily(
            "oxidicom_store_latency_seconds",
            "From the last fragment of an instance to the file under its final name",
            buckets=buckets,
            sum_value=board.latency_sum,
        )
        yield _gauge("oxidicom_series_open", "Series in reception", board.series_open)

    def _registration(self) -> Iterator[Metric]:
        board = self._board
        registered = CounterMetricFamily(
            "oxidicom_series_registered",
            "Series that were handed to CUBE: ok is taken, error refused for ever",
            labels=("result",),
        )
        for result, count in board.registered.items():
            registered.add_metric((result,), count)
        yield registered
        outbox = board.health.outbox()
        yield _gauge(
            "oxidicom_outbox_depth", "Registrations that wait for their broker", outbox.pending
        )
        yield _gauge("oxidicom_outbox_refused", "Registrations that were set aside", outbox.refused)
        if outbox.oldest_at is not None:
            yield _gauge(
                "oxidicom_outbox_oldest_timestamp_seconds",
                "When the oldest of those that wait was written",
                outbox.oldest_at,
            )
        yield _counter(
            "oxidicom_lonk_dropped", "Progress messages that nobody will see", board.lonk_lost
        )


def _gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(name, meaning, value)


def _counter(name: str, meaning: str, value: float) -> Metric:
    return CounterMetricFamily(name, meaning, value)
