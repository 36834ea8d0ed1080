"""The counts of the status board as Prometheus metrics. No label has values that peers choose."""

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

from oxidicom.admin.status_board import StatusBoard
from oxidicom.observers import STORE_LATENCY_BUCKETS_S


class Metrics:
    """Encodes the metrics of the status board and of this process.

    The registry is not the library's default one, because that is global.
    """

    def __init__(self, board: StatusBoard) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(BoardCollector(board))
        ProcessCollector(registry=self._registry)

    def page(self, accept: str) -> tuple[bytes, str]:
        """Return the encoded metrics and their content type, as the Accept header `accept`
        allows."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


class BoardCollector(Collector):
    """Makes the metrics from the status board at each scrape."""

    def __init__(self, board: StatusBoard) -> None:
        self._board = board

    def describe(self) -> list[Metric]:
        return []  # without this, `register` calls `collect`

    def collect(self) -> Iterator[Metric]:
        board = self._board
        yield InfoMetricFamily("oxidicom_build", "Version of oxidicom", {"version": board.version})
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
            "Associations that have ended: ok if released",
            labels=("result",),
        )
        for result, count in board.associations.items():
            associations.add_metric((result,), count)
        yield associations
        yield _gauge(
            "oxidicom_associations_open", "Associations that are open", board.associations_open
        )
        instances = CounterMetricFamily(
            "oxidicom_instances", "Instances answered, by status in hexadecimal", labels=("status",)
        )
        for status, count in board.instances.items():
            instances.add_metric((f"{status:04X}",), count)
        yield instances
        yield _counter("oxidicom_bytes", "Bytes of data sets stored", board.bytes)
        bounds = [*map(str, map(float, STORE_LATENCY_BUCKETS_S)), "+Inf"]
        buckets = list(zip(bounds, accumulate(board.latencies), strict=True))
        yield HistogramMetricFamily(
            "oxidicom_store_latency_seconds",
            "From the last fragment of an instance to the file under its final name",
            buckets=buckets,
            sum_value=board.latency_sum,
        )
        yield _gauge(
            "oxidicom_series_open", "Series that are not registered yet", board.series_open
        )

    def _registration(self) -> Iterator[Metric]:
        board = self._board
        registered = CounterMetricFamily(
            "oxidicom_series_registered",
            "Registrations that left the outbox: ok if delivered, error if refused",
            labels=("result",),
        )
        for result, count in board.registered.items():
            registered.add_metric((result,), count)
        yield registered
        outbox = board.health.outbox()
        yield _gauge(
            "oxidicom_outbox_depth", "Registrations that wait in the outbox", outbox.pending
        )
        yield _gauge(
            "oxidicom_outbox_refused", "Refused entries in the outbox folder", outbox.refused
        )
        if outbox.oldest_at is not None:
            yield _gauge(
                "oxidicom_outbox_oldest_timestamp_seconds",
                "When the oldest registration that waits was written",
                outbox.oldest_at,
            )
        yield _counter(
            "oxidicom_lonk_dropped",
            "Progress messages that were dropped",
            board.lonk_messages_dropped,
        )


def _gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(name, meaning, value)


def _counter(name: str, meaning: str, value: float) -> Metric:
    return CounterMetricFamily(name, meaning, value)
