"""Spans, metrics and logs of a real process at a real collector hold no patient data (39)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.data import Instance
from tests.support.otlp import COLLECTORS, attributes
from tests.support.raw_peer import EXPLICIT, RawPeer, abort
from tests.support.receiver import Receiver

MARKER = "Zwiebelmarker"
"""Part of every text about the patient; it must not be exported."""


def marked(**values: str) -> Instance:
    fields = ("PatientName", "PatientID", "AccessionNumber", "StudyDescription", "ProtocolName")
    texts = dict.fromkeys(fields, MARKER) | {"SeriesDescription": f"{MARKER} axial"}
    instance = Instance(PatientBirthDate="19121212", StudyDate="20191213")
    instance.values |= texts | values
    return instance


@pytest.mark.parametrize("protocol", COLLECTORS)
def test_exported_data_hold_no_patient_data(tmp_path: Path, protocol: str) -> None:
    good, bad = marked(), marked(StudyDate=f"{MARKER}")
    with (
        COLLECTORS[protocol]() as collector,
        Receiver(
            tmp_path,
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
            OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
            OXIDICOM_LOG_LEVEL="debug",
        ) as receiver,
    ):
        with RawPeer(receiver.port) as peer:
            peer.associate(calling=b"MODALITY 1")
            assert peer.store(good.sop_instance, good.encode(EXPLICIT)).status == 0
            assert peer.store(bad.sop_instance, bad.encode(EXPLICIT)).status == 0xC000
            garbage = MARKER.encode() * 20
            assert peer.store(bad.sop_instance, garbage).status == 0xC000
            peer.release()
        with RawPeer(receiver.port) as peer:
            peer.associate(calling=b"MODALITY 2")
            peer.send(abort())
        receiver.wait_for_registration(good.series)
        receiver.stop()
        log = "\n".join(receiver.lines)
    spans = {
        attributes(span)["aet"]: span for span in collector.spans() if span.name == "association"
    }
    assert set(spans) == {"MODALITY 1", "MODALITY 2"}
    released, aborted = spans["MODALITY 1"], spans["MODALITY 2"]
    assert attributes(released)["client.address"] == "127.0.0.1"
    assert attributes(released)["association_ulid"] != attributes(aborted)["association_ulid"]
    assert released.end_time_unix_nano > released.start_time_unix_nano
    assert released.status.code != 2
    assert aborted.status.code == 2, "an error"
    assert collector.metrics, "metrics were exported as well"
    for private in (MARKER, "19121212", "20191213", "2019-12-13"):
        assert private not in log
        assert private.encode() not in collector.raw


def test_reception_works_without_a_collector(tmp_path: Path) -> None:
    instance = marked()
    with Receiver(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9") as receiver:
        with RawPeer(receiver.port) as peer:
            peer.associate()
            assert peer.store(instance.sop_instance, instance.encode(EXPLICIT)).status == 0
            peer.release()
        receiver.wait_for_registration(instance.series)
        receiver.stop()
