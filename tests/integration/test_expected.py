"""Expected counts through a whole receiver, from the first instance to log, outbox and spans."""

from __future__ import annotations

import time
from pathlib import Path

from tests.support.data import Instance
from tests.support.otlp import attributes, http_collector
from tests.support.pacs import answering, scripted_pacs
from tests.support.raw_peer import EXPLICIT, RawPeer
from tests.support.receiver import Receiver
from tests.support.timing import BUSY_MACHINE_S

MARKER = "Zwiebelmarker"


def send(receiver: Receiver, count: int) -> str:
    """Send `count` instances of a new series from RAWPEER; return its UID."""
    series = Instance().series
    with RawPeer(receiver.port) as peer:
        peer.associate(calling=b"RAWPEER")
        for number in range(1, count + 1):
            instance = Instance(series=series, number=number, PatientName=f"{MARKER}^X")
            assert peer.store(instance.sop_instance, instance.encode(EXPLICIT)).status == 0
        peer.release()
    return series


def test_a_series_with_too_few_instances_is_a_warning(tmp_path: Path) -> None:
    with (
        scripted_pacs(answering(5)) as pacs,
        http_collector() as collector,
        Receiver(
            tmp_path,
            OXIDICOM_PACS_ADDRESS=f"RAWPEER=127.0.0.1:{pacs.port}",
            OXIDICOM_SCP_AET="ORACLE",
            OXIDICOM_SERIES_SETTLE="1s",
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
            OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
            OXIDICOM_LOG_LEVEL="debug",
        ) as receiver,
    ):
        series = send(receiver, 3)
        line = receiver.wait_for_log("series complete")
        assert (line["expected"], line["received"], line["short"]) == (5, 3, 2)
        assert line["level"] == "WARN"
        entry = receiver.wait_for_registration(series)
        receiver.stop()
        assert pacs.connections == 1
        log = "\n".join(receiver.lines)
    assert (entry["ndicom"], entry["attempted"], entry["expected"]) == (3, 3, 5)
    spans = {span.name: span for span in collector.spans()}
    findscu, outer = spans["findscu"], spans["getset_number_of_series_related_instances"]
    assert entry["association_id"] == attributes(findscu)["association_ulid"]
    assert findscu.parent_span_id == outer.span_id
    assert outer.parent_span_id == spans["association"].span_id
    assert (attributes(findscu)["aec"], attributes(findscu)["aet"]) == ("RAWPEER", "ORACLE")
    assert attributes(findscu)["pacs_address"] == f"127.0.0.1:{pacs.port}"
    assert attributes(spans["register_series"])["expected"] == 5
    assert MARKER not in log
    assert MARKER.encode() not in collector.raw


def test_a_pacs_that_hangs_holds_up_neither_registration_nor_exit(tmp_path: Path) -> None:
    with (
        scripted_pacs(lambda pacs: None) as pacs,
        Receiver(
            tmp_path, OXIDICOM_PACS_ADDRESS=f"RAWPEER=127.0.0.1:{pacs.port}", OXIDICOM_WORKERS="2"
        ) as receiver,
    ):
        began = time.monotonic()
        serieses = [send(receiver, 1) for _ in range(6)]
        for series in serieses:
            assert receiver.wait_for_registration(series)["expected"] is None
        receiver.stop()
        assert time.monotonic() - began < 10 + BUSY_MACHINE_S
        assert "expected" not in receiver.log("series complete")[0]
