"""The benchmark's tables and pictures show what the trials were, failures above all."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from benchmarks import pictures, tables
from benchmarks.figures import latency_of
from benchmarks.machine import Machine, file_system, this_machine
from benchmarks.receivers import Missing, Receiver
from benchmarks.report import Report, baseline_of, report_of
from benchmarks.rows import Row
from benchmarks.trial import Trial

ROW = Row("1x20k", "1 sender, 20 KiB", 20_000)
IDLE = ROW._replace(key="idle-200", title="beside 200 idle", against="1x20k")
OPEN = ROW._replace(key="open-50", title="at 50 %", share_of="4x20k")
MACHINE = Machine(
    cpu="Some CPU",
    cores=2,
    memory_bytes=8 << 30,
    kernel="6.1",
    python="3.11.2",
    storage="tmpfs at /dev/shm",
    load=0.5,
    commit="abc1234",
    date="2026-01-02",
)


def receiver(name: str) -> Receiver:
    return Receiver(name=name, version=f"{name} 1.0", command=lambda place: [])


def trial(
    name: str,
    seconds: float,
    *errors: str,
    row: Row = ROW,
    instances: int = 1000,
    skipped: str = "",
) -> Trial:
    return Trial(
        receiver=name,
        row=row.key,
        instances=instances,
        data_set_bytes=row.size,
        seconds=seconds,
        cpu_seconds=0.05,
        peak_resident_bytes=30_000_000,
        fragment_bytes=131072,
        offered_per_second=500.0 if row.share_of else None,
        latency=latency_of([seconds / 1000] * instances),
        errors=list(errors),
        skipped=skipped,
    )


def reported(*rounds: list[Trial], rows: tuple[Row, ...] = (ROW,)) -> Report:
    names = dict.fromkeys(one.receiver for one in rounds[0])
    missing = [Missing("orthanc", "apt-get install orthanc")]
    return report_of(MACHINE, [receiver(name) for name in names], missing, rows, rounds)


def printed(report: Report) -> list[str]:
    console = Console(width=160)
    with console.capture() as capture:
        for grid in tables.grids(report):
            console.print(tables.rich_table(grid))
    return capture.get().splitlines()


def markdown(report: Report) -> list[str]:
    return "".join(map(tables.markdown, tables.grids(report))).splitlines()


def test_figures_are_medians_and_ratios_are_within_a_round() -> None:
    result = reported(
        [trial("ours", 0.1), trial("dcmtk", 0.2)],  # 2
        [trial("ours", 0.2), trial("dcmtk", 0.6)],  # 3: a slow round for both
        [trial("ours", 0.4), trial("dcmtk", 0.1)],  # 0.25
    )
    ours, dcmtk = result.summaries
    assert ours.instances_per_second == pytest.approx(5000)
    assert ours.megabytes_per_second == pytest.approx(100)
    assert ours.cpu_microseconds_per_instance == pytest.approx(50)
    assert ours.cpu_seconds_per_gigabyte == pytest.approx(2.5)
    assert ours.peak_resident_megabytes == pytest.approx(30)
    assert ours.latency
    assert ours.latency.p99 == pytest.approx(0.0002)
    assert ours.ratio == pytest.approx(2)  # of the medians themselves it would be 1
    assert ours.latency_ratio == pytest.approx(0.5)
    assert dcmtk.ratio == 1
    assert not result.failed
    (line,) = [line for line in printed(result) if line.strip().startswith("ours")]
    cells = ["5,000", "100", "2.50", "50.0", "0.200", "0.200", "30.0", "2.00"]
    assert line.split()[1:] == cells
    assert f"| ours | {' | '.join(cells)} |" in markdown(result)


def test_cpu_time_of_a_few_ticks_is_not_a_figure() -> None:
    hardly = msgspec.structs.replace(trial("ours", 0.1), cpu_seconds=0.01)
    (ours,) = reported([hardly]).summaries
    assert ours.cpu_microseconds_per_instance is None
    assert ours.cpu_seconds_per_gigabyte is None


def test_a_row_is_compared_with_the_row_it_adds_to() -> None:
    rounds = [
        [trial("ours", 0.1), trial("ours", 0.2, row=IDLE)],
        [trial("ours", 0.3), trial("ours", 0.3, row=IDLE)],
        [trial("ours", 0.4), trial("ours", 0.5, row=IDLE)],
    ]
    alone, beside = reported(*rounds, rows=(ROW, IDLE)).summaries
    assert alone.alone_ratio is None
    assert beside.alone_ratio == pytest.approx(0.8)


def test_one_failed_round_fails_the_receiver(tmp_path: Path) -> None:
    lost = trial("ours", 0.1, "999 whole files of 1020 instances")
    result = reported([trial("ours", 0.1), trial("dcmtk", 0.2)], [lost, trial("dcmtk", 0.2)])
    assert result.failed
    for text in (printed(result), markdown(result)):
        (line,) = [line for line in text if line.strip("| ").startswith("ours") and "," not in line]
        assert line.strip("| ").removeprefix("ours").strip("| ") == "FAILED"  # no speed is claimed
    (note,) = next(iter(tables.grids(result))).notes
    assert note == "ours, 1 sender, 20 KiB: FAILED: 999 whole files of 1020 instances"
    svg, _ = pictures.draw_report(result, tmp_path)
    assert "FAILED" in svg.read_text()


def test_a_row_beyond_a_receiver_is_no_failure() -> None:
    result = reported([trial("ours", 0.0, instances=0, skipped="takes 10 associations at most")])
    assert not result.failed
    (note,) = next(iter(tables.grids(result))).notes
    assert note.endswith("not run: takes 10 associations at most")


def test_a_receiver_that_never_ran_does_not_end_the_report(tmp_path: Path) -> None:
    result = reported([trial("ours", 0.0, "did not start: no such port", instances=0)])
    assert result.failed
    assert result.summaries[0].ratio is None
    assert "did not start" in next(iter(tables.grids(result))).notes[0]
    assert pictures.draw_report(result, tmp_path)


@pytest.mark.parametrize(
    ("names", "baseline"),
    [
        (["oxidicom", "dcmtk", "floor"], "floor"),
        (["oxidicom", "dcmtk"], "dcmtk"),
        (["WORKERS=1", "WORKERS=2"], "WORKERS=1"),
    ],
)
def test_the_floor_is_what_the_others_are_compared_with(names: list[str], baseline: str) -> None:
    assert baseline_of(names) == baseline


def test_the_machine_and_versions_are_named() -> None:
    result = reported([trial("dcmtk", 0.2)])
    text = "\n".join(tables.heading_lines(result))
    for said in ("Some CPU", "2 cores", "3.11.2", "dcmtk 1.0", "abc1234", "load 0.5", "one round"):
        assert said in text
    assert tables.missing_lines(result) == ["orthanc: not found (apt-get install orthanc)"]


def test_this_machine_is_known(tmp_path: Path) -> None:
    machine = this_machine(tmp_path)
    assert machine.cores > 0
    assert machine.memory_bytes > 1 << 20
    assert machine.commit
    assert str(tmp_path) in machine.storage
    assert file_system(Path("/proc/self")) == "proc"


def test_everything_can_be_read_back_from_json() -> None:
    result = reported([trial("ours", 0.1), trial("dcmtk", 0.2)])
    assert msgspec.json.decode(msgspec.json.encode(result), type=Report) == result


def test_a_table_without_a_row_of_its_own_is_left_out() -> None:
    keys = [grid.key for grid in tables.grids(reported([trial("ours", 0.1)]))]
    assert keys == ["throughput"]  # and not idle, which has the same row again


def test_every_table_has_its_picture(tmp_path: Path) -> None:
    rows = (ROW, IDLE, OPEN)
    result = reported([trial(name, 0.1, row=row) for row in rows for name in ("a", "b")], rows=rows)
    made = pictures.draw_report(result, tmp_path)
    assert [path.name for path in made] == [
        *("throughput.svg", "throughput.png", "idle.svg", "idle.png"),
        *("latency.svg", "latency.png"),
    ]
    for path in made:
        head = path.read_bytes()[:2000]
        assert head.startswith(b"\x89PNG") if path.suffix == ".png" else b"<svg" in head


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.0123, "0.012"),
        (1.234, "1.23"),
        (12.34, "12.3"),
        (99.96, "100"),
        (123.4, "123"),
        (12345.6, "12,346"),
    ],
)
def test_three_digits_are_enough(value: float | None, text: str) -> None:
    assert tables.number(value) == text
