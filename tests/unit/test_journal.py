"""The journal of open series and its recovery (promise 4)."""

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
from oxidicom.series.journal import Journal, JournalEntry, JournalFaults
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
    faults = JournalFaults()
    found = list(journal.entries(faults))
    assert faults == JournalFaults()
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal"


@pytest.fixture
def journal(folder: Path) -> Journal:
    return Journal(folder, sync=False)


def test_the_journal_is_a_series_journal(journal: Journal) -> None:
    port: SeriesJournal = journal
    port.enter("A", series())


def test_the_folder_is_readable_by_its_user_only(journal: Journal, folder: Path) -> None:
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert all_entries(journal) == []


@pytest.mark.parametrize("sync", [False, True])
def test_another_process_finds_an_entry(folder: Path, sync: bool) -> None:
    Journal(folder, sync).enter("A", series())
    assert all_entries(Journal(folder, sync)) == [JournalEntry("A", series())]


def test_an_entry_is_written_once(journal: Journal, folder: Path) -> None:
    journal.enter("A", series())
    journal.enter("A", series())
    assert len(os.listdir(folder)) == 1


def test_entries_are_synced_if_that_is_set(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: list[bool] = []
    monkeypatch.setattr(filesystem, "write_atomically", lambda *_, sync: wanted.append(sync))
    for sync in (False, True):
        Journal(folder, sync).enter("A", series())
    assert wanted == [False, True]


def test_only_the_entries_of_a_registration_are_removed(journal: Journal) -> None:
    for association in ("A", "B", "C"):
        for uid in ("1.2", "1.3"):
            journal.enter(association, series(uid))
    journal.enter("A", series("1.2", pacs_name="OTHER"))
    journal.remove(series("1.2").key, ["A", "C", "without an entry"])
    journal.remove(series("1.2").key, ("A", "C"))
    assert sorted((entry.association_id, *entry.series.key) for entry in all_entries(journal)) == [
        ("A", "OTHER", "1.2"),
        ("A", "PACS", "1.3"),
        ("B", "PACS", "1.2"),
        ("B", "PACS", "1.3"),
        ("C", "PACS", "1.3"),
    ]


def test_the_journal_keeps_nothing_in_memory(folder: Path) -> None:
    one, other = Journal(folder, False), Journal(folder, False)
    one.enter("A", series())
    other.remove(series().key, ["A"])
    assert all_entries(one) == []
    one.enter("A", series())
    assert len(all_entries(other)) == 1


def test_a_removed_folder_is_made_again(journal: Journal, folder: Path) -> None:
    folder.rmdir()
    folder.parent.rmdir()
    journal.enter("A", series())
    assert len(all_entries(journal)) == 1


def test_a_full_disk_raises_and_leaves_no_file(
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
def test_a_series_with_any_characters_can_be_entered_and_read(
    tmp_path_factory: pytest.TempPathFactory, pacs_name: str, uid: str
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    journal = Journal(folder, False)
    journal.enter("A", series(uid, pacs_name))
    assert all_entries(journal) == [JournalEntry("A", series(uid, pacs_name))]
    journal.remove(SeriesKey(pacs_name, uid), ["A"])
    assert os.listdir(folder) == []


def test_keys_with_the_same_joined_text_have_two_entries(journal: Journal) -> None:
    journal.enter("A", series("21.2", "PACS"))
    journal.enter("A", series("1.2", "PACS2"))
    assert len(all_entries(journal)) == 2


def test_a_file_that_is_not_an_entry_is_renamed_and_reported_once(
    journal: Journal, folder: Path
) -> None:
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

    faults = JournalFaults()
    assert list(journal.entries(faults)) == [JournalEntry("A", series())]
    bad = {
        "torn.json", "empty.json", "latin.json", "copy.json", "other.json", "huge.json",
        "notes.txt", "folder", "link", "pipe", "socket",
    }  # fmt: skip
    assert {fault.split()[0] for fault in faults.invalid} == bad
    assert len(faults.invalid) == len(bad)
    assert not any(PATIENT in fault or "1.2" in fault for fault in faults.invalid)
    assert set(os.listdir(folder)) == {name, ".0123.tmp"} | {each + ".bad" for each in bad}
    assert (folder / "notes.txt.bad").read_bytes() == b"do not delete"
    assert all_entries(journal) == [JournalEntry("A", series())], "it is not reported again"


def test_an_entry_that_cannot_be_read_is_kept(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    for association in "ABC":
        journal.enter(association, series())
    read = filesystem.read_small

    def stale(path: Path) -> bytes:
        if path.name.startswith("A"):
            raise OSError(errno.ESTALE, "Stale file handle", str(path))
        if path.name.startswith("B"):
            raise FileNotFoundError(errno.ENOENT, "registered by another receiver", str(path))
        return read(path)

    faults = JournalFaults()
    with monkeypatch.context() as patched:
        patched.setattr(filesystem, "read_small", stale)
        assert [entry.association_id for entry in journal.entries(faults)] == ["C"]
    ((name, why),) = faults.unreadable.items()
    assert name.startswith("A-")
    assert why == "Stale file handle"
    assert [entry.association_id for entry in journal.entries(JournalFaults(), [name])] == ["A"]
    assert [entry.association_id for entry in all_entries(journal)] == ["A", "B", "C"]


def test_an_entry_of_a_newer_version_can_be_read(journal: Journal, folder: Path) -> None:
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
    assert sorted(recover(journal, JournalFaults()), key=lambda found: found.series.key[::-1]) == [
        RecoveredSeries(series(path="SERVICES/PACS/PACS/early"), (early, late)),
        RecoveredSeries(series("1.3", "OTHER"), (late,)),
        RecoveredSeries(series("1.3"), (middle,)),
    ]
    for found in recover(journal, JournalFaults()):
        journal.remove(found.series.key, found.associations)
    assert recover(journal, JournalFaults()) == []


def test_recovery_reports_faults(journal: Journal, folder: Path) -> None:
    journal.enter("A", series())
    (folder / "foreign").touch()
    faults = JournalFaults()
    assert recover(journal, faults) == [RecoveredSeries(series(), ("A",))]
    assert len(faults.invalid) == 1


def _enter_until_killed(folder: Path, entered: Any) -> None:
    journal = Journal(folder, sync=False)
    number = 0
    while True:
        journal.enter(f"{number:026}", series())
        number += 1
        entered.value = number


def test_kill_9_loses_no_entry(folder: Path) -> None:
    context = multiprocessing.get_context("spawn")
    for _ in range(2):
        entered = context.Value("q", 0)
        writer = context.Process(target=_enter_until_killed, args=(folder, entered))
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


def test_recovery_reads_the_entries_of_accepted_writers_only(
    folder: Path, journal: Journal
) -> None:
    one, two = Journal(folder, sync=False, writer="one"), Journal(folder, sync=False, writer="two")
    journal.enter("A", series())
    one.enter("B", series())
    two.enter("C", series())
    two.enter("C", series("1.3"))
    faults = JournalFaults()
    assert recover(journal, faults, "two".__eq__) == [
        RecoveredSeries(series(), ("C",)),
        RecoveredSeries(series("1.3"), ("C",)),
    ]
    assert recover(journal, faults, "three".__eq__) == []
    assert {each.associations for each in recover(journal, faults)} == {("A", "B", "C"), ("C",)}
    assert faults == JournalFaults()
