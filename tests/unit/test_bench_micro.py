"""The micro-benchmarks measure what they claim."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from benchmarks import micro
from benchmarks.encoding import EXPLICIT_VR_LITTLE_ENDIAN, associate_rq
from oxidicom._dataset import EXPLICIT_LE, Walker
from oxidicom._pdu import CommandSet, Data, Framer


def test_the_parsers_accept_every_case() -> None:
    groups = [case.group for case in micro.cases()]
    assert groups == ["_pdu.Framer"] * 3 + ["_dataset.Walker"] * 4


def test_the_stated_number_of_tiny_fragments_is_sent() -> None:
    stream = micro._tiny_pdvs(100)
    framer = Framer()
    request = associate_rq("ChRIS", "BENCHMARK", EXPLICIT_VR_LITTLE_ENDIAN)
    framer.feed(request, 0, len(request))
    command, *data = framer.feed(stream, 0, len(stream))
    assert isinstance(command, CommandSet)
    assert len(data) == 100
    assert all(isinstance(one, Data) and one.stop - one.start == 2 for one in data)
    assert isinstance(data[-1], Data)
    assert data[-1].last


@pytest.mark.parametrize("more", [micro._private_elements, micro._sequence])
def test_the_wanted_elements_lie_behind_what_is_to_be_skipped(more: object) -> None:
    assert callable(more)
    _, added = more()
    data_set = micro._amid(micro._ct(implicit=False), added)
    walker = Walker(EXPLICIT_LE)
    assert not walker.feed(data_set, 0, data_set.index(added) + len(added))
    assert walker.feed(data_set, data_set.index(added) + len(added), len(data_set))
    walker.finish()
    assert not walker.failed
    assert b"Doe^Jane" in walker.series_values()


def test_a_time_is_for_one_unit() -> None:
    calls = []
    case = micro.Case("group", "name", "a call", 10, 1000, lambda: calls.append(1))
    result = micro.measure(case, long_enough=0.001)
    assert len(calls) > 100
    assert 0 < result.nanoseconds < 1e6
    assert result.bytes_per_second == pytest.approx(1000 / (result.nanoseconds * 10 / 1e9))


def test_results_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(micro, "LONG_ENOUGH", 0.001)
    assert micro.main(tmp_path) == 0
    report = msgspec.json.decode((tmp_path / "micro.json").read_bytes(), type=micro.MicroReport)
    assert len(report.results) == 7
    assert "PDUs of 16 KiB" in capsys.readouterr().out
    assert "PDUs of 16 KiB" in (tmp_path / "micro.md").read_text()
    assert {"micro.svg", "micro.png"} <= {path.name for path in tmp_path.iterdir()}
