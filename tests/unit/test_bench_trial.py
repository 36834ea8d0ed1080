"""A trial against a small receiver of the test's own: honest, lying, refusing, absent."""

from __future__ import annotations

import re
import shutil
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from benchmarks.receivers import Receiver
from benchmarks.rows import Effort, Row
from benchmarks.trial import WARM_UP, missing_files, run_trial, works_of

ROW = Row("row", "2 senders", 20_000, senders=2, instances=30)
EFFORT = Effort(seconds=20.0, stored_bytes=10_000_000, rounds=1, budget=60.0)

PEER = """
import pathlib, sys
from pynetdicom import AE, evt
port, folder, kind = int(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]

def store(event):
    number = int(event.request.AffectedSOPInstanceUID.rpartition(".")[2]) - 500000
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
if kind == "narrow":
    ae.maximum_associations = 2
ae.start_server(("127.0.0.1", port), evt_handlers=[(evt.EVT_C_STORE, store)])
"""


def receiver(kind: str, most: int | None = None) -> Receiver:
    return Receiver(
        name=kind,
        version="test",
        command=lambda place: [
            *(sys.executable, "-c", PEER, str(place.port), str(place.folder), kind),
        ],
        most_associations=most,
    )


def test_an_honest_receiver_is_measured(tmp_path: Path) -> None:
    trial = run_trial(receiver("honest"), ROW, EFFORT, tmp_path)
    assert trial.errors == []
    assert trial.instances == 60
    assert trial.seconds > 0
    assert trial.cpu_seconds > 0
    assert trial.peak_resident_bytes > 10_000_000
    assert trial.fragment_bytes == 16382  # pynetdicom's own default
    assert trial.latency
    assert 0 < trial.latency.p50 <= trial.latency.p99 <= trial.latency.max < trial.seconds
    assert not (tmp_path / "stored").exists()


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
def test_a_receiver_that_breaks_the_rules_fails(tmp_path: Path, kind: str, error: str) -> None:
    trial = run_trial(receiver(kind), ROW, EFFORT, tmp_path)
    assert [said for said in trial.errors if said.startswith(error)], trial.errors


def test_refused_idle_associations_are_reported(tmp_path: Path) -> None:
    trial = run_trial(receiver("narrow"), ROW._replace(senders=1, idle=4), EFFORT, tmp_path)
    (error,) = trial.errors
    # The association of the warm-up may still count, and so may the check whether its port answers.
    answer = "the association was answered by a PDU of type 3"
    assert re.match(f"idle association [123]: {answer}", error)


def test_a_row_beyond_a_receivers_or_the_machines_limits_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle = ROW._replace(idle=200)
    narrow = run_trial(receiver("absent", most=10), idle, EFFORT, tmp_path)
    assert (narrow.skipped, narrow.errors) == ("takes 10 associations at most", [])
    share = run_trial(receiver("absent"), ROW._replace(share_of="other"), EFFORT, tmp_path)
    assert share.skipped == "no closed loop to take a share of"
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(9, 9, 50_000))
    assert "no room" in run_trial(receiver("absent"), ROW, EFFORT, tmp_path).skipped


def test_work_is_bounded_by_bytes_and_by_what_the_row_asks() -> None:
    endless = ROW._replace(instances=1_000_000)
    several = works_of(endless, EFFORT, None)
    assert sum(work.instances * work.size for work in several) <= EFFORT.stored_bytes
    assert {work.instances for work in works_of(ROW, EFFORT, None)} == {30}
    (one,) = works_of(Row("large", "", 1 << 30), EFFORT, None)
    assert one.instances == 1
    assert len({work.series for work in several}) == 2


def test_an_open_loop_has_a_timetable_for_each_sender() -> None:
    first, second = works_of(ROW, EFFORT, 100.0)
    assert first.timetable
    assert second.timetable
    assert first.timetable.interval == pytest.approx(0.02)
    assert second.timetable.offset == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("sizes", "fault"),
    [
        ([501, 800], []),
        ([501], ["1 whole files of 2 instances"]),
        ([501, 500], ["1 whole files of 2 instances"]),  # no room for preamble and meta group
        ([501, 501, 501], ["3 whole files of 2 instances"]),
    ],
)
def test_files_are_counted_only_where_they_are_whole(
    tmp_path: Path, sizes: list[int], fault: list[str]
) -> None:
    for number, size in enumerate(sizes):
        folder = tmp_path / f"folder-{number}"
        folder.mkdir()
        (folder / "image.dcm").write_bytes(bytes(size))
    assert missing_files(tmp_path, 2, 500) == fault
