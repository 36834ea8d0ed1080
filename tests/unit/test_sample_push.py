"""Pushed instances are counted correctly, and shown in a table."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

import pydicom
import pytest
from rich.console import Console

from samples.cli import ask
from samples.folder import BuiltInstance, BuiltSeries
from samples.identity import uid
from samples.process import Server, ServerError
from samples.push import WAYS, Pushed
from samples.receiver import (
    Destination,
    found_on_disk,
    registrations_waiting,
    standing_on_disk,
)
from samples.study_set import MR_T1
from samples.table import failures, number, table_of
from samples.tomography import mr

CALLING = "PACS_STORE"
THREE = BuiltSeries(
    *("2.25.1", "2.25.2", "CT", "Lung [red]", "1.2.840.10008.1.2.1"),
    [BuiltInstance(f"2.25.{n}", f"studies/{n}.dcm", 2_000_000) for n in (3, 4, 5)],
)


# ---- on disk -----------------------------------------------------------------------------------


@pytest.fixture
def sent(tmp_path: Path) -> list[tuple[str, Path]]:
    """Return three files, and copy them below a files root under the names that oxidicom gives."""
    place = tmp_path / "root" / "SERVICES" / "PACS" / CALLING / "patient" / "study" / "series"
    place.mkdir(parents=True)
    files = []
    for made in mr(MR_T1, 3, 16, "T1"):
        path = tmp_path / f"{made.InstanceNumber}.dcm"
        made.save_as(path, enforce_file_format=True)
        shutil.copy(path, place / f"{made.InstanceNumber:04}-{made.SOPInstanceUID}.dcm")
        files.append((made.SOPInstanceUID, path))
    return files


def stored(root: Path, sop_instance_uid: str) -> Path:
    (path,) = root.rglob(f"*-{sop_instance_uid}.dcm")
    return path


def found(root: Path, sent: list[tuple[str, Path]], calling: str = CALLING) -> int:
    return found_on_disk({}, standing_on_disk(root, calling), sent)


def test_all_are_found(sent: list[tuple[str, Path]], tmp_path: Path) -> None:
    assert found(tmp_path / "root", sent) == 3
    assert found(tmp_path / "root", sent, "PACS_MOVE") == 0


def test_one_that_is_missing_is_not_found(sent: list[tuple[str, Path]], tmp_path: Path) -> None:
    stored(tmp_path / "root", sent[1][0]).unlink()
    assert found(tmp_path / "root", sent) == 2


def test_one_that_differs_is_not_found(sent: list[tuple[str, Path]], tmp_path: Path) -> None:
    path = stored(tmp_path / "root", sent[1][0])
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # a pixel
    path.write_bytes(data)
    assert found(tmp_path / "root", sent) == 2


def test_an_instance_that_arrived_twice_is_not_found(
    sent: list[tuple[str, Path]], tmp_path: Path
) -> None:
    path = stored(tmp_path / "root", sent[1][0])
    elsewhere = path.parents[1] / "other" / path.name
    elsewhere.parent.mkdir()
    shutil.copy(path, elsewhere)
    assert found(tmp_path / "root", sent) == 2


def test_files_of_before_do_not_count_as_arrived(
    sent: list[tuple[str, Path]], tmp_path: Path
) -> None:
    root = tmp_path / "root"
    before = standing_on_disk(root, CALLING)
    assert found_on_disk(before, standing_on_disk(root, CALLING), sent) == 0
    path = stored(root, sent[1][0])
    again = path.with_suffix(".tmp")  # as the receiver replaces a file
    shutil.copy(sent[1][1], again)
    again.rename(path)
    assert found_on_disk(before, standing_on_disk(root, CALLING), sent) == 1


def test_other_lengths_of_sequences_are_no_difference(tmp_path: Path) -> None:
    made = next(mr(MR_T1, 1, 16, "T1"))
    item = pydicom.Dataset()
    item.CodeValue = "1"
    made.ProcedureCodeSequence = [item]
    place = tmp_path / "SERVICES" / "PACS" / CALLING
    place.mkdir(parents=True)
    original, received = tmp_path / "1.dcm", place / f"0001-{made.SOPInstanceUID}.dcm"
    made.save_as(original, enforce_file_format=True)
    made["ProcedureCodeSequence"].is_undefined_length = True
    made.save_as(received, enforce_file_format=True)
    assert original.read_bytes() != received.read_bytes()
    assert found(tmp_path, [(made.SOPInstanceUID, original)]) == 1


def test_registrations_are_counted_by_the_records_of_the_outbox(tmp_path: Path) -> None:
    assert registrations_waiting(tmp_path) == 0
    outbox = tmp_path / ".oxidicom" / "outbox"
    outbox.mkdir(parents=True)
    for name in ("a.json", "b.json", "c.tmp"):
        (outbox / name).touch()
    assert registrations_waiting(tmp_path) == 2


# ---- the table ---------------------------------------------------------------------------------


def pushed(failed: int = 0, found: int | None = 3, reason: str = "", way: str = "store") -> Pushed:
    return Pushed(THREE, WAYS[way], 0.5, failed, found, reason)


def printed(*pushes: Pushed) -> list[list[str]]:
    """Return the rows that are not empty, as words."""
    console = Console(width=120, force_terminal=False)
    with console.capture() as capture:
        console.print(table_of(pushes))
    return [line.split() for line in capture.get().splitlines() if line.strip()]


def test_a_row_a_series_and_a_sum_a_way() -> None:
    rows = printed(pushed(), pushed(), pushed(way="move"))
    assert rows[2:] == [
        ["C-STORE", "from", "PACS_STORE"],
        *[["Lung", "[red]", "CT", "3", "6.00", "0.50", "12.0", "3"]] * 2,
        ["2", "series", "6", "12.0", "1.00", "12.0", "6"],
        ["C-MOVE", "from", "PACS_MOVE"],
        ["Lung", "[red]", "CT", "3", "6.00", "0.50", "12.0", "3"],
        ["1", "series", "3", "6.00", "0.50", "12.0", "3"],
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [(201.33, "201"), (99.94, "99.9"), (12.6, "12.6"), (1.39, "1.39"), (0.0019, "0.002")],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("one", "cells", "line"),
    [
        (pushed(), "12.0 3", None),
        (pushed(found=None), "12.0 not visible", None),
        (pushed(found=1), "- 1, 2 missing", "acknowledged, but 2 of 3 missing"),
        (pushed(failed=1, found=2), "- 2, 1 missing", "1 of 3 not acknowledged"),
        (pushed(failed=3, found=0, reason="no route"), "- 0, 3 missing", "no route"),
        (pushed(failed=1, found=None), "- not visible", "1 of 3 not acknowledged"),
    ],
)
def test_what_is_missing_is_said(one: Pushed, cells: str, line: str | None) -> None:
    assert " ".join(printed(one)[3]).endswith(f"0.50 {cells}")
    assert one.complete == (line is None)
    assert failures([one]) == ([f"Lung [red] by C-STORE: {line}"] if line else [])


# ---- what is asked for -------------------------------------------------------------------------


def test_defaults() -> None:
    asked = ask(["run", "somewhere"])
    assert (asked.folder, asked.small, asked.destination) == (Path("somewhere"), False, None)
    assert asked.ways is None


@pytest.mark.parametrize(
    ("to", "host", "port"),
    [("pacs.example:104", "pacs.example", 104), ("[::1]:11111", "::1", 11111)],
)
def test_a_receiver_that_runs(to: str, host: str, port: int) -> None:
    asked = ask(["push", "somewhere", "--to", to, "--aet", "OTHER", "--way", "move"])
    assert asked.destination == Destination(host, port, "OTHER")
    assert asked.ways == ["move"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "required"),
        (["build"], "FOLDER"),
        (["run", "x", "--to", "host"], "not HOST:PORT"),
        (["run", "x", "--to", "host:0"], "not HOST:PORT"),
        (["run", "x", "--way", "mail"], "invalid choice"),
        (["push", "x", "--small"], "unrecognized"),
        (["run", "x", "--root", "y"], "named with --to"),
    ],
)
def test_wrong_arguments_are_refused(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        ask(arguments)
    assert exit_.value.code == 2
    assert said in capsys.readouterr().err


# ---- servers -----------------------------------------------------------------------------------


class Script(Server):
    """A server that is a shell script, and answers once its log says so."""

    name = "script"

    def answers(self) -> bool:
        return "ready" in self._log.read_text()


def script(text: str, log: Path) -> Script:
    return Script(["/bin/sh", "-c", text], {}, log)


def test_a_server_runs_while_it_is_needed(tmp_path: Path) -> None:
    waits = "trap 'echo ended; exit 0' TERM; echo ready; while :; do /bin/sleep 0.05; done"
    with script(waits, tmp_path / "log"):
        assert (tmp_path / "log").read_text() == "ready\n"
    assert (tmp_path / "log").read_text() == "ready\nended\n"


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(ServerError, match="script does not start: no room"),
        script("echo no room; exit 3", tmp_path / "log"),
    ):
        raise AssertionError


def test_a_server_that_ends_badly_is_reported(tmp_path: Path) -> None:
    waits = "trap 'echo lost; exit 4' TERM; echo ready; while :; do /bin/sleep 0.05; done"
    with (
        pytest.raises(ServerError, match="ended with status 4: ready\nlost"),
        script(waits, tmp_path / "log"),
    ):
        pass


def test_identifiers_are_a_function_of_names() -> None:
    """A change of these identifiers would change every build."""
    assert uid("a", 1) == uid("a", 1) != uid("a", 2)
    namespace = uuid.uuid5(uuid.NAMESPACE_URL, "https://github.com/FNNDSC/oxidicom/samples")
    assert MR_T1.series_instance_uid == f"2.25.{uuid.uuid5(namespace, 'brain/1').int}"
