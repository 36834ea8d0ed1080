"""`oxidicom outbox`: its output, its effect and its exit statuses."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from oxidicom.cli import main
from oxidicom.notify.outbox_store import Outbox, OutboxEntry, new_entry
from tests.support.registrations import numbered, registration

PATIENT = {
    "path": "SERVICES/PACS/AET/P77-Muster_Max-19500102",
    "patient_id": "P77-4711",
    "patient_name": "Muster^Max",
    "study_date": "2024-03-04",
    "patient_birth_date": "1950-01-02",
    "patient_age": 27091,
    "patient_sex": "F",
    "accession_number": "ACC-0815",
    "protocol_name": "Protokoll Knie",
    "study_description": "Knie links nach Sturz",
    "series_description": "sag T1 Sturz",
}
"""The values are nowhere else."""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in os.environ:
        if name.upper().startswith(("OXIDICOM_", "CHRIS_", "OTEL_")) or name == "PORT":
            monkeypatch.delenv(name)
    monkeypatch.setenv("OXIDICOM_FILES_ROOT", str(tmp_path))
    monkeypatch.setenv("OXIDICOM_CELERY_BROKER", "amqp://localhost:1")
    (tmp_path / ".oxidicom").mkdir()
    return tmp_path / ".oxidicom" / "outbox"


@pytest.fixture
def outbox(folder: Path) -> Outbox:
    return Outbox(folder, sync=False)


@pytest.fixture
def run(folder: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(["outbox", *arguments])
        return status, *capsys.readouterr()

    return run


def with_patient(uid: str = "1.2.3") -> OutboxEntry:
    return new_entry(registration(42, series_instance_uid=uid, **PATIENT))


def refused(outbox: Outbox, entry: OutboxEntry) -> OutboxEntry:
    outbox.put(entry)
    outbox.refuse(entry, "CUBE answers 400, at fault: path", 3)
    return entry


def patient_data_in(text: str) -> list[str]:
    return [str(value) for value in PATIENT.values() if len(str(value)) > 1 and str(value) in text]


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_an_empty_outbox_lists_nothing(run: Run) -> None:
    assert run("list") == (0, "0 pending, 0 refused, 0 corrupt\n", "")
    assert run("list", "--json") == (0, "", "")
    assert run("retry", "--all") == (0, "there is nothing to requeue\n", "")


def test_pending_entries_give_status_0(run: Run, outbox: Outbox) -> None:
    outbox.put(new_entry(numbered(7, 12)))
    status, out, err = run("list")
    assert (status, err) == (0, "")
    heading, line, summary = out.splitlines()
    assert heading.split()[:3] == ["STATE", "AGE", "NAME"]
    assert line.split()[0] == "pending"
    assert line.split()[2:] == [
        new_entry(numbered(7)).name[:12],
        *("12", "-", "OXITESTORTHANC", "1.2.826.7"),
    ]
    assert summary == "1 pending, 0 refused, 0 corrupt"


def test_refused_and_corrupt_entries_give_status_3(run: Run, outbox: Outbox, folder: Path) -> None:
    refused(outbox, with_patient())
    (folder / f"{'0' * 40}.corrupt").write_bytes(b"{")
    status, out, _ = run("list")
    assert status == 3
    assert out.splitlines()[-1] == "0 pending, 1 refused, 1 corrupt"
    (line,) = (line for line in out.splitlines() if line.startswith("refused"))
    assert " 42 " in line
    assert " 3 " in line
    assert line.endswith("1.2.3  CUBE answers 400, at fault: path")
    status, out, _ = run("list", "--json")
    assert status == 3
    entry, corrupt = lines_of(out)
    assert entry["state"] == "refused"
    assert (entry["pacs_name"], entry["series_instance_uid"]) == ("OXITESTORTHANC", "1.2.3")
    assert (entry["ndicom"], entry["attempts"]) == (42, 3)
    assert entry["refused_because"] == "CUBE answers 400, at fault: path"
    assert 0 <= entry["age_seconds"] < 60
    assert corrupt["state"] == "corrupt"
    assert "registration" not in corrupt


@pytest.mark.parametrize("how", [[], ["--json"]])
def test_patient_data_are_shown_with_phi_only(run: Run, outbox: Outbox, how: list[str]) -> None:
    name = refused(outbox, with_patient()).name
    outbox.put(with_patient("1.2.4"))
    for command in (["list"], ["show", name], ["retry", name]):
        _, out, err = run(*command, *(how if command[0] != "retry" else []))
        assert patient_data_in(out + err) == []
    _, out, _ = run("show", name, "--phi", *how)
    assert len(patient_data_in(out)) == sum(len(str(each)) > 1 for each in PATIENT.values())
    _, out, _ = run("list", "--phi", *how)
    assert {"Muster^Max", "P77-4711"} <= set(patient_data_in(out))


def test_every_field_of_a_series_is_patient_data_or_not() -> None:
    """A new field counts as patient data until it is listed as harmless."""
    from oxidicom.cli.outbox import _FIELDS_WITHOUT_PHI
    from oxidicom.ports import SeriesInfo

    fields = {field.name for field in msgspec.structs.fields(SeriesInfo)}
    assert fields == set(PATIENT) | _FIELDS_WITHOUT_PHI


def test_show_prints_an_entry_without_patient_data(run: Run, outbox: Outbox) -> None:
    entry = refused(outbox, with_patient())
    for name in (entry.name, entry.name[:12], f"{entry.name}.refused"):
        status, out, err = run("show", name)
        assert (status, err) == (0, "")
        for line in (
            "refused_because:      CUBE answers 400, at fault: path",
            "attempts:             3",
            "series_instance_uid:  1.2.3",
            "ndicom:               42",
            f"task_id:              {entry.task_id}",
            "patient data are not shown; --phi shows them",
        ):
            assert line in out.splitlines()


def test_show_says_why_an_entry_is_corrupt(run: Run, folder: Path) -> None:
    folder.mkdir()
    (folder / f"{'a' * 40}.corrupt").write_bytes(b'{"registration":{}}')
    status, out, _ = run("show", "a" * 12)
    assert status == 0
    assert "note:                 Object missing required field `series`" in out


def test_a_name_of_no_entry_or_of_several_is_an_error(
    run: Run, outbox: Outbox, folder: Path
) -> None:
    refused(outbox, with_patient())
    for last in "12":
        (folder / f"abcdef{last}.corrupt").write_bytes(b"{")
    for name, says in (
        ("ffff", "no entry ffff in"),
        ("", "no entry"),
        ("abcdef", "is the beginning of 2 names"),
        ("\x1b[2Jxx", "no entry \\x1b[2Jxx"),
    ):
        for command in ("show", "retry"):
            status, out, err = run(command, name)
            assert (status, out) == (1, "")
            assert says in err


def test_a_senders_control_characters_do_not_reach_the_terminal(run: Run, outbox: Outbox) -> None:
    entry = new_entry(
        registration(pacs_name="A\x1b[31mB", series_instance_uid="1\n2", patient_name="\x07")
    )
    outbox.put(entry)
    for command in (["list", "--phi"], ["show", entry.name, "--phi"]):
        _, out, _ = run(*command)
        assert not {"\x1b", "\x07"} & set(out)
        assert "A\\x1b[31mB" in out


@pytest.mark.parametrize("how", ["name", "--refused", "--all"])
def test_retry_requeues_refused_entries(run: Run, outbox: Outbox, how: str) -> None:
    entry = refused(outbox, with_patient())
    status, out, err = run("retry", entry.name[:10] if how == "name" else how)
    assert (status, out, err) == (0, f"{entry.name[:12]}: pending again\n", "")
    assert outbox.depth() == 1
    assert run("list")[0] == 0
    status, out, _ = run("retry", entry.name)
    assert (status, out) == (0, f"{entry.name[:12]}: is pending already\n")


def test_retry_prints_json(run: Run, outbox: Outbox) -> None:
    entry = refused(outbox, with_patient())
    status, out, err = run("retry", "--refused", "--json")
    assert (status, err) == (0, "")
    assert lines_of(out) == [
        {"name": entry.name, "ok": True, "outcome": "back", "text": "pending again"}
    ]
    assert run("retry", "--refused", "--json") == (0, "", "")


def test_retry_never_replaces_a_newer_entry(run: Run, outbox: Outbox) -> None:
    entry = refused(outbox, with_patient())
    newer = with_patient()
    outbox.put(newer)
    status, out, _ = run("retry", entry.name)
    assert status == 0
    assert "a newer registration of the series is pending" in out
    assert list(outbox.pending()) == [newer]


def test_retry_requeues_corrupt_entries_that_can_be_read(
    run: Run, outbox: Outbox, folder: Path
) -> None:
    good = refused(outbox, with_patient())
    (folder / f"{'0' * 40}.corrupt").write_bytes(b"{")
    assert run("retry", "--refused")[0] == 0
    status, out, err = run("retry", "--all")
    assert (status, out) == (1, "")
    assert err.startswith(f"oxidicom: {'0' * 12} cannot be put back: ")
    assert [entry.task_id for entry in outbox.pending()] == [good.task_id]


@pytest.mark.parametrize(
    "arguments",
    [[], ["retry"], ["retry", "--all", "--refused"], ["retry", "abcd", "--all"], ["show"]],
)
def test_invalid_arguments_give_status_2(run: Run, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2


def test_invalid_settings_give_status_2_and_missing_folders_status_1(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OXIDICOM_STATE_DIR", str(tmp_path / "elsewhere"))
    status, out, err = run("list")
    assert (status, out) == (1, "")
    assert "OXIDICOM_STATE_DIR" in err
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "outbox").touch()
    status, _, err = run("list")
    assert status == 1
    assert "cannot use the outbox: Not a directory" in err
    monkeypatch.delenv("OXIDICOM_FILES_ROOT")
    assert run("list")[0] == 2


@pytest.mark.parametrize("action", ["list", "show", "retry"])
def test_help_has_the_exit_statuses(
    run: Run, action: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(action, "--help")
    assert "exit status:\n  0 " in capsys.readouterr().out
