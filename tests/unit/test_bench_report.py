"""The benchmark's table says what the trials were, failures above all."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from benchmarks import report
from benchmarks.receivers import Receiver
from benchmarks.trial import Scenario, Trial, missing_files

SCENARIO = Scenario("1 sender, 20 KiB", 1, 20_000, 1000)
MACHINE = report.Machine("Some CPU", 2, 8 << 30, "6.1", "3.11.2", 0.5, "abc1234")


def receiver(name: str) -> Receiver:
    return Receiver(name=name, version=f"{name} 1.0", command=lambda port, folder: [])


def trial(name: str, seconds: float, *errors: str, instances: int = 1000) -> Trial:
    return Trial(
        receiver=name,
        scenario=SCENARIO.name,
        instances=instances,
        data_set_bytes=SCENARIO.size,
        seconds=seconds,
        cpu_seconds=0.05,
        peak_resident_bytes=30_000_000,
        errors=list(errors),
    )


def reported(*rounds: list[Trial]) -> report.Report:
    receivers = [receiver(one.receiver) for one in rounds[0]]
    return report.report_of(MACHINE, receivers, [SCENARIO], rounds, "dcmtk")


def test_figures_are_medians_and_ratios_are_within_a_round() -> None:
    result = reported(
        [trial("ours", 0.1), trial("dcmtk", 0.2)],  # x 2
        [trial("ours", 0.2), trial("dcmtk", 0.6)],  # x 3: a slow round for both
        [trial("ours", 0.4), trial("dcmtk", 0.1)],  # x 0.25
    )
    ours, dcmtk = result.summaries
    assert ours.instances_per_second == pytest.approx(5000)
    assert ours.megabytes_per_second == pytest.approx(100)
    assert ours.cpu_microseconds_per_instance == pytest.approx(50)
    assert ours.cpu_seconds_per_gigabyte == pytest.approx(2.5)
    assert ours.peak_resident_megabytes == pytest.approx(30)
    assert ours.ratio == pytest.approx(2)  # of the medians themselves it would be 1
    assert dcmtk.ratio == 1
    assert not result.failed
    assert "x 2.00" in report.table(result)


def test_one_failed_round_fails_the_receiver() -> None:
    lost = trial("ours", 0.1, "999 whole files of 1020 instances")
    result = reported([trial("ours", 0.1), trial("dcmtk", 0.2)], [lost, trial("dcmtk", 0.2)])
    assert result.failed
    (line,) = [line for line in report.table(result).splitlines() if line.startswith("  ours")]
    assert "FAILED: 999 whole files" in line
    assert "10000" not in line  # no speed is claimed for it


def test_a_receiver_that_never_ran_and_a_missing_baseline_do_not_end_the_report() -> None:
    result = reported([trial("ours", 0.0, "did not start: no such port", instances=0)])
    assert result.failed
    assert result.summaries[0].ratio is None
    assert "did not start" in report.table(result)


def test_the_machine_and_versions_are_named() -> None:
    text = report.table(reported([trial("dcmtk", 0.2)]))
    for said in ("Some CPU", "2 cores", "3.11.2", "dcmtk 1.0", "abc1234", "load 0.5"):
        assert said in text
    machine = report.this_machine()
    assert machine.cores > 0
    assert machine.memory_bytes > 1 << 20
    assert machine.commit


def test_everything_can_be_read_back_from_json() -> None:
    result = reported([trial("ours", 0.1), trial("dcmtk", 0.2)])
    assert msgspec.json.decode(msgspec.json.encode(result), type=report.Report) == result


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
