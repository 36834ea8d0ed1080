"""A trial against a small receiver of the test's own: honest, lying, refusing, absent."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.receivers import Receiver
from benchmarks.trial import WARM_UP, Scenario, run_trial

SCENARIO = Scenario("2 senders", 2, 20_000, 30)

PEER = """
import pathlib, sys
from pynetdicom import AE, evt
port, folder, kind = int(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]

def store(event):
    number = int(event.request.AffectedSOPInstanceUID.rpartition(".")[2]) - 100000
    if kind == "refusing" and number == 25:
        return 0xA700
    if kind == "dropping" and number == 25:
        return 0
    data_set = event.request.DataSet.getvalue()
    if kind == "cutting" and number == 25:
        data_set = data_set[:10000]
    name = event.request.AffectedSOPInstanceUID
    (folder / name).write_bytes(bytes(132) + data_set)
    if kind == "leaving" and number == 25:
        event.assoc.abort()
    return 0

ae = AE()
ae.add_supported_context("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1")
if kind == "absent":
    sys.exit("no such thing")
ae.start_server(("127.0.0.1", port), evt_handlers=[(evt.EVT_C_STORE, store)])
"""


def receiver(kind: str, share: float = 1.0) -> Receiver:
    return Receiver(
        name=kind,
        version="test",
        command=lambda port, folder: [sys.executable, "-c", PEER, str(port), str(folder), kind],
        share=share,
    )


def test_an_honest_receiver_is_measured(tmp_path: Path) -> None:
    trial = run_trial(receiver("honest"), SCENARIO, tmp_path)
    assert trial.errors == []
    assert trial.instances == 60
    assert trial.seconds > 0
    assert trial.cpu_seconds > 0
    assert trial.peak_resident_bytes > 10_000_000
    assert not (tmp_path / "honest").exists()


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("dropping", f"{60 + WARM_UP - 2} whole files of {60 + WARM_UP} instances"),
        ("cutting", f"{60 + WARM_UP - 2} whole files of {60 + WARM_UP} instances"),
        ("refusing", "after 25 instances: status 0xa700"),
        ("leaving", "after 25 instances: "),
        ("absent", "did not start: no such thing"),
    ],
)
def test_a_receiver_that_does_not_do_its_part_fails(tmp_path: Path, kind: str, error: str) -> None:
    trial = run_trial(receiver(kind), SCENARIO, tmp_path)
    assert [said for said in trial.errors if said.startswith(error)], trial.errors


def test_a_slow_receiver_is_given_its_share(tmp_path: Path) -> None:
    trial = run_trial(receiver("honest", share=0.8), SCENARIO, tmp_path)
    assert trial.errors == []
    assert trial.instances == 48
