from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import socket
import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxidicom import filesystem
from oxidicom.ports import SeriesInfo, SeriesJournal, SeriesKey
from oxidicom.series.journal import Faults, Journal, JournalEntry
from oxidicom.series.journal_recovery import RecoveredSeries, recover
from oxidicom.ulid import new_ulid

PATIENT = "Dröge^Jürgen"


def series(
    uid: str = "1.2", pacs_name: str = "PACS", path: str = "SERVICES/PACS/PACS/p/s/e"
) -> SeriesInfo:
    return SeriesInfo(
        calling_ae_title=pacs_name,
        pacs_name=pacs_name,
        path=path,
        patient_id="P",
        study_date="2020-01-02",
        study_instance_uid="1",
        series_instance_uid=uid,
        patient_name=PATIENT,
        patient_age=-3,
        patient_sex="",
    )


def all_entries(journal: Journal) -> list[JournalEntry]:
    faults = Faults()
    found = list(journal.entries(faults))
    assert faults == Faults()
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal"


@pytest.fixture
def journal(folder: Path) -> Journal:
    return Journal(folder, sync=False)


def test_is_the_port(journal: Journal) -> None:
    port: SeriesJournal = journal
    port.enter("A", series())


def test_folder_is_private(journal: Journal, folder: Path) -> None:
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert all_entries(journal) == []


@pytest.mark.parametrize("sync", [False, True])
def test_what_was_entered_is_found_by_another_process(folder: Path, sync: bool) -> None:
    Journal(folder, sync).enter("A", series())
    assert all_entries(Journal(folder, sync)) == [JournalEntry("A", series())]


def test_entering_twice_is_entering_once(journal: Journal, folder: Path) -> None:
    journal.enter("A", series())
    journal.enter("A", series())
    assert len(os.listdir(folder)) == 1


def test_sync_reaches_the_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: list[bool] = []
    monkeypatch.setattr(filesystem, "write_atomically", lambda *_, sync: wanted.append(sync))
    for sync in (False, True):
        Journal(folder, sync).enter("A", series())
    assert wanted == [False, True]


def test_removes_exactly_what_a_completion_consumed(journal: Journal) -> None:
    for association in ("A", "B", "C"):
        for uid in ("1.2", "1.3"):
            journal.enter(association, series(uid))
    journal.enter("A", series("1.2", pacs_name="OTHER"))
    journal.remove(series("1.2").key, ["A", "C", "never entered"])
    journal.remove(series("1.2").key, ("A", "C"))
    assert sorted((entry.association_id, *entry.series.key) for entry in all_entries(journal)) == [
        ("A", "OTHER", "1.2"),
        ("A", "PACS", "1.3"),
        ("B", "PACS", "1.2"),
        ("B", "PACS", "1.3"),
        ("C", "PACS", "1.3"),
    ]


def test_nothing_is_kept_in_memory(folder: Path) -> None:
    one, other = Journal(folder, False), Journal(folder, False)
    one.enter("A", series())
    other.remove(series().key, ["A"])
    assert all_entries(one) == []
    one.enter("A", series())
    assert len(all_entries(other)) == 1


def test_a_folder_that_was_cleaned_away_is_made_again(journal: Journal, folder: Path) -> None:
    folder.rmdir()
    folder.parent.rmdir()
    journal.enter("A", series())
    assert len(all_entries(journal)) == 1


def test_a_full_disk_is_the_callers_to_answer(
    journal: Journal, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space"):
            journal.enter("A", series())
    assert os.listdir(folder) == []


@given(
    pacs_name=st.text(st.characters(exclude_categories=["Cs"])),
    uid=st.text(st.characters(exclude_categories=["Cs"]), max_size=300),
)
def test_any_text_makes_a_name_and_comes_back(
    tmp_path_factory: pytest.TempPathFactory, pacs_name: str, uid: str
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    journal = Journal(folder, False)
    journal.enter("A", series(uid, pacs_name))
    assert all_entries(journal) == [JournalEntry("A", series(uid, pacs_name))]
    journal.remove(SeriesKey(pacs_name, uid), ["A"])
    assert os.listdir(folder) == []


def test_the_two_halves_of_a_key_do_not_run_together(journal: Journal) -> None:
    journal.enter("A", series("21.2", "PACS"))
    journal.enter("A", series("1.2", "PACS2"))
    assert len(all_entries(journal)) == 2


def test_whatever_lies_there_does_not_stop_the_start(journal: Journal, folder: Path) -> None:
    journal.enter("A", series())
    (name,) = os.listdir(folder)
    whole = (folder / name).read_bytes()
    (folder / "torn.json").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.json").write_bytes(b"")
    (folder / "latin.json").write_bytes(whole.replace("ö".encode(), b"\xf6"))
    (folder / "copy.json").write_bytes(whole)
    (folder / "other.json").write_bytes(b'{"association_id": 1, "series": {}}')
    (folder / "huge.json").write_bytes(b" " * (filesystem.MAX_SMALL_FILE + 1) + whole)
    (folder / "notes.txt").write_bytes(b"do not delete")
    (folder / "folder").mkdir()
    (folder / "link").symlink_to(folder / name)
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(folder)  # a socket's path has at most 107 bytes
        try:
            listener.bind("socket")
        finally:
            os.chdir(here)
    (folder / ".0123.tmp").write_bytes(whole[:5])

    faults = Faults()
    assert list(journal.entries(faults)) == [JournalEntry("A", series())]
    bad = {
        "torn.json", "empty.json", "latin.json", "copy.json", "other.json", "huge.json",
        "notes.txt", "folder", "link", "pipe", "socket",
    }  # fmt: skip
    assert {fault.split()[0] for fault in faults.useless} == bad
    assert len(faults.useless) == len(bad)
    assert not any(PATIENT in fault or "1.2" in fault for fault in faults.useless)
    assert set(os.listdir(folder)) == {name, ".0123.tmp"} | {each + ".bad" for each in bad}
    assert (folder / "notes.txt.bad").read_bytes() == b"do not delete"
    assert all_entries(journal) == [JournalEntry("A", series())], "each is reported once"


def test_what_cannot_be_read_now_stays_for_the_next_start(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    for association in "ABC":
        journal.enter(association, series())
    read = filesystem.read_small

    def stale(path: Path) -> bytes:
        if path.name.startswith("A"):
            raise OSError(errno.ESTALE, "Stale file handle", str(path))
        if path.name.startswith("B"):
            raise FileNotFoundError(errno.ENOENT, "completed by a replica", str(path))
        return read(path)

    faults = Faults()
    with monkeypatch.context() as patched:
        patched.setattr(filesystem, "read_small", stale)
        assert [entry.association_id for entry in journal.entries(faults)] == ["C"]
    ((name, why),) = faults.unreadable.items()
    assert name.startswith("A-")
    assert why == "Stale file handle"
    assert [entry.association_id for entry in journal.entries(Faults(), [name])] == ["A"]
    assert [entry.association_id for entry in all_entries(journal)] == ["A", "B", "C"]


def test_a_newer_versions_entry_is_understood(journal: Journal, folder: Path) -> None:
    journal.enter("A", series())
    (name,) = os.listdir(folder)
    content = msgspec.json.decode((folder / name).read_bytes())
    content["format"] = 2
    content["series"]["laterality"] = "L"
    del content["series"]["modality"]
    (folder / name).write_bytes(msgspec.json.encode(content))
    assert all_entries(journal) == [JournalEntry("A", series())]


def test_recovery_merges_associations_oldest_first(journal: Journal) -> None:
    early, middle, late = (new_ulid(second * 1_000_000_000) for second in (1, 2, 3))
    journal.enter(late, series(path="SERVICES/PACS/PACS/late"))
    journal.enter(early, series(path="SERVICES/PACS/PACS/early"))
    journal.enter(middle, series("1.3"))
    journal.enter(late, series("1.3", "OTHER"))
    assert sorted(recover(journal, Faults()), key=lambda found: found.series.key[::-1]) == [
        RecoveredSeries(series(path="SERVICES/PACS/PACS/early"), (early, late)),
        RecoveredSeries(series("1.3", "OTHER"), (late,)),
        RecoveredSeries(series("1.3"), (middle,)),
    ]
    for found in recover(journal, Faults()):
        journal.remove(found.series.key, found.associations)
    assert recover(journal, Faults()) == []


def test_recovery_hands_on_faults(journal: Journal, folder: Path) -> None:
    journal.enter("A", series())
    (folder / "foreign").touch()
    faults = Faults()
    assert recover(journal, faults) == [RecoveredSeries(series(), ("A",))]
    assert len(faults.useless) == 1


def _enter_for_ever(folder: Path, entered: Any) -> None:
    journal = Journal(folder, sync=False)
    number = 0
    while True:
        journal.enter(f"{number:026}", series())
        number += 1
        entered.value = number


def test_kill_9_loses_nothing_that_was_entered(folder: Path) -> None:
    context = multiprocessing.get_context("spawn")
    for _ in range(2):
        entered = context.Value("q", 0)
        writer = context.Process(target=_enter_for_ever, args=(folder, entered))
        writer.start()
        while entered.value < 50:
            assert writer.is_alive()
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        journal = Journal(folder, sync=False)
        found = all_entries(journal)
        assert len(found) >= entered.value
        journal.remove(series().key, [entry.association_id for entry in found])
        assert all_entries(journal) == []


def test_what_one_of_several_writers_left(folder: Path, journal: Journal) -> None:
    one, two = Journal(folder, sync=False, writer="one"), Journal(folder, sync=False, writer="two")
    journal.enter("A", series())
    one.enter("B", series())
    two.enter("C", series())
    two.enter("C", series("1.3"))
    faults = Faults()
    assert recover(journal, faults, "two".__eq__) == [
        RecoveredSeries(series(), ("C",)),
        RecoveredSeries(series("1.3"), ("C",)),
    ]
    assert recover(journal, faults, "three".__eq__) == []
    assert {each.associations for each in recover(journal, faults)} == {("A", "B", "C"), ("C",)}
    assert faults == Faults()
