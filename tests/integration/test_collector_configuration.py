"""deploy/otel-collector.yaml is consistent, and receivers configured by its comments reach it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.data import Instance
from tests.support.otlp import COLLECTORS, Collector
from tests.support.raw_peer import EXPLICIT, RawPeer
from tests.support.receiver import PROJECT, Receiver

FILE = PROJECT / "deploy" / "otel-collector.yaml"

PROTOCOLS = {"grpc": "grpc", "http": "http/protobuf"}
"""Names of the protocols in the collector's configuration and in OTEL_EXPORTER_OTLP_PROTOCOL."""


@pytest.fixture(scope="module")
def configuration() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return loaded


def environments() -> list[dict[str, str]]:
    """Return each block of variables in the comments."""
    blocks = re.split(r"\n#\n", FILE.read_text())
    found = [dict(re.findall(r"^#     (\w+)=(\S+)$", block, re.MULTILINE)) for block in blocks]
    return [each for each in found if "OTEL_EXPORTER_OTLP_ENDPOINT" in each]


@contextlib.contextmanager
def collector_as(configuration: dict[str, Any]) -> Iterator[dict[str, Collector]]:
    """Start collectors on free ports, keyed by the ports of the configuration."""
    with contextlib.ExitStack() as stack:
        yield {
            receiver["endpoint"].rpartition(":")[2]: stack.enter_context(
                COLLECTORS[PROTOCOLS[protocol]]()
            )
            for protocol, receiver in configuration["receivers"]["otlp"]["protocols"].items()
        }


def test_pipelines_use_every_defined_component_and_no_other(
    configuration: dict[str, Any],
) -> None:
    assert configuration.keys() == {
        *("receivers", "processors", "exporters", "extensions", "service")
    }
    service = configuration["service"]
    pipelines = service["pipelines"]
    assert set(pipelines) == {"traces", "metrics"}, "what receivers export"
    for kind in ("receivers", "processors", "exporters"):
        used = {name for pipeline in pipelines.values() for name in pipeline[kind]}
        assert used == set(configuration[kind])
    assert service["extensions"] == list(configuration["extensions"])
    for pipeline in pipelines.values():
        assert pipeline["processors"][0] == "memory_limiter"
        assert pipeline["processors"][-1] == "batch"


def test_no_port_is_taken_twice(configuration: dict[str, Any]) -> None:
    ports = re.findall(r"^ *endpoint: 0\.0\.0\.0:(\d+)$", FILE.read_text(), re.MULTILINE)
    assert len(ports) == len(set(ports)) == 4


def test_both_protocols_are_configured() -> None:
    protocols = [each.get("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc") for each in environments()]
    assert protocols == list(PROTOCOLS.values())


@pytest.mark.parametrize("environment", environments(), ids=lambda each: "-".join(sorted(each)))
def test_a_receiver_reaches_the_collector_as_the_comments_say(
    configuration: dict[str, Any], environment: dict[str, str], tmp_path: Path
) -> None:
    host, _, port = environment["OTEL_EXPORTER_OTLP_ENDPOINT"].rpartition(":")
    assert host == "http://otel-collector"
    with collector_as(configuration) as collectors:
        there = collectors.pop(port)
        environment = environment | {"OTEL_EXPORTER_OTLP_ENDPOINT": there.endpoint}
        with Receiver(tmp_path, **environment) as receiver:
            instance = Instance()
            with RawPeer(receiver.port) as peer:
                peer.associate()
                assert peer.store(instance.sop_instance, instance.encode(EXPLICIT)).status == 0
                peer.release()
            receiver.wait_for_log("series complete", 30)
            receiver.stop()
        assert {span.name for span in there.spans()} == {"association", "register_series"}
        assert "oxidicom.instances" in there.points()
        assert not any(other.traces or other.metrics for other in collectors.values())
