"""A tiny run of the benchmarks from end to end: oxidicom, and a receiver that lies."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as benchmarks
from benchmarks.receivers import Receiver, oxidicom

# A receiver that answers Success and stores nothing.
LIAR = """
import sys
from pynetdicom import AE, evt
ae = AE()
ae.add_supported_context("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1")
ae.start_server(("127.0.0.1", int(sys.argv[1])), evt_handlers=[(evt.EVT_C_STORE, lambda event: 0)])
"""


def liar() -> Receiver:
    return Receiver(
        name="liar",
        version="0",
        command=lambda place: [sys.executable, "-c", LIAR, str(place.port)],
    )


def of(report: dict[str, Any], receiver: str, row: str) -> dict[str, Any]:
    (summary,) = (
        one for one in report["summaries"] if (one["receiver"], one["row"]) == (receiver, row)
    )
    assert isinstance(summary, dict)
    return summary


def test_a_run_reports_figures_and_the_receiver_that_lied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def found(settings: dict[str, str], work: Path) -> tuple[list[Receiver], list[object]]:
        ours = oxidicom(settings)
        assert ours
        return [ours, liar()], []

    monkeypatch.setattr(benchmarks, "find_receivers", found)
    root, out = tmp_path / "root", tmp_path / "out"
    root.mkdir()
    arguments = ["--quick", "--rounds", "1", "--rows", "open-50"]
    status = benchmarks.main([*arguments, "--root", str(root), "--out", str(out)])
    assert status == 1  # a receiver lied
    assert list(root.iterdir()) == []
    report = json.loads((out / "report.json").read_text())
    for row in ("4x20k", "open-50"):
        ours = of(report, "oxidicom", row)
        assert ours["errors"] == []
        assert ours["instances_per_second"] > 0
        assert 0 < ours["latency"]["p50"] <= ours["latency"]["max"]
        assert 10 < ours["peak_resident_megabytes"] < 500
    shares = of(report, "oxidicom", "open-50"), of(report, "oxidicom", "4x20k")
    offered, closed = shares[0]["offered_per_second"], shares[1]["instances_per_second"]
    assert offered == pytest.approx(closed / 2)
    (error,) = of(report, "liar", "4x20k")["errors"]
    assert error.startswith("0 whole files of ")
    assert of(report, "liar", "open-50")["skipped"] == "no closed loop to take a share of"
    assert (out / "latency.svg").stat().st_size > 10_000
    assert (out / "latency.png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    assert "FAILED" in printed
    assert f"liar, 4 senders, 20 KiB, closed loop: FAILED: {error}" in printed
    assert f"FAILED: {error}" in (out / "report.md").read_text()


def test_a_sweep_runs_oxidicom_with_each_value(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["sweep", "OXIDICOM_WRITE_MODE=inline,threads", "--quick", "--rounds", "1"]
    arguments += ["--rows", "1x20k", "--root", str(tmp_path), "--out", str(tmp_path / "out")]
    assert benchmarks.main(arguments) == 0
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert list(report["versions"]) == ["WRITE_MODE=inline", "WRITE_MODE=threads"]
    assert report["baseline"] == "WRITE_MODE=inline"
    assert "WRITE_MODE=threads" in capsys.readouterr().out
