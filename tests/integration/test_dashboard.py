"""A receiver has every metric and label that deploy/grafana/oxidicom.json queries, under the
collector's names and under those of /metrics."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import httpx
import promql_parser
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.data import Instance
from tests.support.otlp import attributes, http_collector
from tests.support.raw_peer import EXPLICIT, RawPeer
from tests.support.receiver import PROJECT, Receiver, wait_until

FILE: Final = PROJECT / "deploy" / "grafana" / "oxidicom.json"

ONLY_METRICS_PAGE: Final = "Only from /metrics of the admin endpoint"
ONLY_OTLP: Final = "Only by OpenTelemetry"

OF_PROMETHEUS: Final = {"instance", "le"}
"""Labels of every scrape, and of classic histograms."""

_UNITS: Final = {"s": "seconds", "By": "bytes"}

Names = dict[str, set[str]]
"""Labels by the name of the metric in Prometheus."""


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(FILE.read_text())
    return loaded


def expressions() -> dict[str, list[str]]:
    """Return the queries of the panels by row."""
    found: dict[str, list[str]] = {}
    for panel in dashboard()["panels"]:
        if panel["type"] == "row":
            found[panel["title"]] = []
        else:
            found[[*found][-1]] += [target["expr"] for target in panel["targets"]]
    return found


def metrics_in(queries: list[str]) -> set[str]:
    return {name for query in queries for name in re.findall(r"\boxidicom_\w+", query)}


def labels_in(query: str) -> set[str]:
    grouped = {name for names in re.findall(r"by \(([^)]*)\)", query) for name in names.split(", ")}
    return grouped | set(re.findall(r"(\w+) ?(?:=~|!=|=)", query))


# ---- what a receiver has -----------------------------------------------------------------------


def in_prometheus_names(instruments: dict[str, Any]) -> Names:
    """Return the names that the collector's exporter gives (OpenTelemetry's "Prometheus and
    OpenMetrics Compatibility"), of histograms both native and classic ones."""
    names: Names = defaultdict(set)
    for metric in instruments.values():
        kind = metric.WhichOneof("data")
        data = getattr(metric, kind)
        name = metric.name.replace(".", "_")
        unit = _UNITS.get(metric.unit)
        if unit is not None and unit not in name.split("_"):
            name += f"_{unit}"
        if kind == "sum" and data.is_monotonic:
            name += "_total"
        labels = {label for point in data.data_points for label in attributes(point)}
        names[name] |= labels
        if kind.endswith("histogram"):
            for suffix in ("bucket", "count", "sum"):
                names[f"{name}_{suffix}"] |= labels
    return names


def on_the_page(text: str) -> Names:
    names: Names = defaultdict(set)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            names[sample.name] |= sample.labels.keys()
            if family.type == "histogram":
                names[family.name] |= sample.labels.keys()  # the name of a native one
    return names


class Exported(NamedTuple):
    instruments: dict[str, Any]
    by_otlp: Names
    on_page: Names


def send(receiver: Receiver) -> None:
    """Send two series, one of which is refused."""
    good, bad = Instance(), Instance(StudyDate="tomorrow")
    with RawPeer(receiver.port) as peer:
        peer.associate()
        assert peer.store(good.sop_instance, good.encode(EXPLICIT)).status == 0
        assert peer.store(bad.sop_instance, bad.encode(EXPLICIT)).status == 0xC000
        peer.release()
    receiver.wait_for_log("series complete", 30)
    receiver.wait_for_log("PACS gave no instance count", 30)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    with http_collector() as collector:
        receiver = Receiver(
            tmp_path_factory.mktemp("files"),
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
            OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
            OXIDICOM_ADMIN_PORT="0",
            # No PACS listens there; the query counts all the same.
            OXIDICOM_PACS_ADDRESS="RAWPEER=127.0.0.1:9",
        )
        with receiver:
            send(receiver)
        # The outbox folder is read at the start and then at intervals.
        with receiver:
            send(receiver)
            pages: list[str] = []

            def tells_of_the_outbox() -> bool:
                pages.append(httpx.get(f"http://127.0.0.1:{receiver.admin_port}/metrics").text)
                return "oxidicom_outbox_oldest" in pages[-1]

            wait_until(tells_of_the_outbox, "the age of what waits", 30)
        instruments = collector.instruments()
        yield Exported(instruments, in_prometheus_names(instruments), on_the_page(pages[-1]))


def documented() -> dict[str, tuple[str, set[str], str]]:
    """Return unit, labels and Prometheus name of each metric in docs/telemetry.md."""
    text = (PROJECT / "docs" / "telemetry.md").read_text()
    rows = re.findall(r"^\| `(oxidicom\.[\w.]+)` \|(.*)\|$", text, re.MULTILINE)
    cells = {name: [cell.strip() for cell in rest.split("|")] for name, rest in rows}
    return {
        name: (unit, set(re.findall(r"`(\w+)`", labels)), prometheus.strip("`"))
        for name, (_, unit, labels, prometheus) in cells.items()
    }


# ---- the tests ---------------------------------------------------------------------------------


def test_every_metric_is_exported_with_its_labels(exported: Exported) -> None:
    for row, queries in expressions().items():
        assert queries, row
        sources = {ONLY_METRICS_PAGE: [exported.on_page], ONLY_OTLP: [exported.by_otlp]}
        for source in sources.get(row, [exported.by_otlp, exported.on_page]):
            for query in queries:
                names = metrics_in([query])
                assert names <= source.keys(), query
                labels = {label for name in names for label in source[name]}
                assert labels_in(query) <= labels | OF_PROMETHEUS, query


def test_every_metric_is_shown(exported: Exported) -> None:
    """This holds for metrics of oxidicom; those of the process have dashboards of their own."""
    shown = metrics_in([query for queries in expressions().values() for query in queries])
    names = exported.by_otlp.keys() | exported.on_page.keys()
    ours = {name for name in names if name.startswith("oxidicom_")}
    beside = {name for name in ours if name.endswith(("_count", "_sum", "_created", "_info"))}
    assert ours - beside == shown


def test_the_docs_name_every_metric(exported: Exported) -> None:
    told = documented()
    assert told.keys() == exported.instruments.keys()
    for name, (unit, labels, prometheus) in told.items():
        given = exported.instruments[name].unit
        assert unit == ("" if given.startswith("{") else given), name
        assert exported.by_otlp[prometheus] == labels, name


def test_every_query_of_the_dashboard_is_valid() -> None:
    for query in [each for queries in expressions().values() for each in queries]:
        promql_parser.parse(query.replace("$__rate_interval", "5m"))
    with pytest.raises(ValueError, match="unclosed"):
        promql_parser.parse("sum by (le (rate(x[5m]))")


def test_percentiles_work_with_native_and_classic_histograms() -> None:
    queries = [each for queries in expressions().values() for each in queries]
    percentiles = [query for query in queries if "histogram_quantile" in query]
    assert len(percentiles) == 15
    for query in percentiles:
        classic, native = query.split(" or ")
        [bucket], [name] = metrics_in([classic]), metrics_in([native])
        assert bucket == f"{name}_bucket"
        assert "by (le)" in classic


def test_the_dashboard_has_what_grafana_needs() -> None:
    loaded = dashboard()
    assert loaded["schemaVersion"] >= 41
    assert [variable["name"] for variable in loaded["templating"]["list"]] == [
        "datasource",
        "instance",
    ]
    panels = loaded["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in panels
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells), "no panel covers another"
    assert max(x for x, _ in cells) < 24
    for panel in panels:
        for target in panel.get("targets", ()):
            assert panel["datasource"] == target["datasource"]
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert 'instance=~"$instance"' in target["expr"]
