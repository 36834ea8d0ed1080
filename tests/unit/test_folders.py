"""The folder of a series: which instance names it, how long it is kept, which files are in it
(decisions 26 and 29)."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest

from oxidicom.below_root import make_folders
from oxidicom.ports import SeriesInfo, SeriesKey
from oxidicom.store.folders import SeriesFolder, SeriesFolders, SharedSeriesFolder

PATH = b"SERVICES/PACS/AET/patient/study/series"


def series(uid: str = "1.2.3", patient: str = "P1") -> SeriesInfo:
    return SeriesInfo(
        calling_ae_title="AET",
        pacs_name="AET",
        path=f"SERVICES/PACS/AET/{patient}/study/series",
        patient_id=patient,
        study_date="2024-01-31",
        study_instance_uid="1.2",
        series_instance_uid=uid,
    )


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def stored(folders: SeriesFolders, folder: SeriesFolder, association: str = "A") -> None:
    folders.release(folder, association, stored=True)


def failed(folders: SeriesFolders, folder: SeriesFolder, association: str = "A") -> None:
    folders.release(folder, association, stored=False)


# ---- claims ------------------------------------------------------------------------------


def test_the_first_stored_instance_names_the_folder() -> None:
    folders = SeriesFolders()
    first = folders.claim(series(patient="P1"), "A")
    stored(folders, first)
    assert folders.claim(series(patient="P2"), "A") is first
    assert folders.claim(series(patient="P3"), "B") is first
    assert folders.claim(series(patient="P1"), "B") is first
    assert first.differing == 2
    assert folders.claim(series("9.9", "P2"), "A") is not first


def test_a_pending_instance_names_the_folder_and_a_failed_one_does_not() -> None:
    folders = SeriesFolders()
    first = folders.claim(series(patient="P1"), "A")
    assert folders.claim(series(patient="P2"), "B") is first
    failed(folders, first)
    assert folders.claim(series(patient="P2"), "B") is first, "the other instance is still pending"
    failed(folders, first)
    failed(folders, first)
    again = folders.claim(series(patient="P2"), "B")
    assert again is not first
    assert b"P2" in again.path
    assert not again.journaled
    folders.association_ended("A")
    stored(folders, again)
    assert folders.claim(series(patient="P1"), "C") is again


def test_a_series_without_stored_instances_is_forgotten() -> None:
    folders = SeriesFolders()
    failed(folders, folders.claim(series(), "A"))
    failed(folders, folders.claim(series(), "B"))
    folders.association_ended("A")
    assert len(folders) == 1
    folders.association_ended("B")
    folders.association_ended("unknown")
    assert len(folders) == 0


def test_a_series_is_kept_until_it_is_registered() -> None:
    folders = SeriesFolders()
    folder = folders.claim(series(), "A")
    stored(folders, folder)
    folders.association_ended("A")
    assert folders.claim(series(patient="P2"), "B") is folder
    stored(folders, folder)
    folders.association_ended("B")
    folders.completed(series().key, ("A", "B"))
    folders.completed(series().key, ("A", "B"))
    assert len(folders) == 0
    assert folders.claim(series(patient="P2"), "C") is not folder


def test_an_open_association_keeps_a_series_that_is_registered() -> None:
    """It claims the folder between the completion and the registration."""
    folders = SeriesFolders()
    folder = folders.claim(series(), "A")
    stored(folders, folder)
    folders.association_ended("A")
    assert folders.claim(series(), "B") is folder
    folders.completed(series().key, ("A", "B"))
    assert folders.claim(series(patient="P2"), "B") is folder
    stored(folders, folder)
    stored(folders, folder)
    folders.association_ended("B")
    assert len(folders) == 1
    folders.completed(series().key, ("A", "B"))
    assert len(folders) == 0


def test_a_registered_series_is_forgotten_with_an_association_that_stored_nothing_more() -> None:
    """No further registration would come for it."""
    folders = SeriesFolders()
    folder = folders.claim(series(), "A")
    stored(folders, folder)
    folders.association_ended("A")
    failed(folders, folders.claim(series(), "B"))
    folders.completed(series().key, ("A", "B"))
    folders.association_ended("B")
    assert len(folders) == 0


def test_a_registration_takes_only_the_associations_that_it_includes() -> None:
    """An association may store and end before the process hears of the registration."""
    folders = SeriesFolders()
    folder = folders.claim(series(), "A")
    stored(folders, folder, "A")
    folders.association_ended("A")
    assert folders.claim(series(patient="P2"), "B") is folder
    stored(folders, folder, "B")
    folders.association_ended("B")
    folders.completed(series().key, ("A",))
    assert folders.claim(series(patient="P3"), "C") is folder, "what B stored is not registered"
    failed(folders, folder, "C")
    folders.association_ended("C")
    folders.completed(series().key, ("B",))
    assert len(folders) == 0


def test_an_instance_that_fails_after_the_end_of_its_association_leaves_nothing() -> None:
    folders = SeriesFolders()
    folder = folders.claim(series(), "A")
    folders.association_ended("A")
    assert len(folders) == 1
    failed(folders, folder)
    assert len(folders) == 0


def test_the_end_of_an_association_tells_the_series_without_stored_instances() -> None:
    folders = SeriesFolders()
    first, second = series("1.2.3"), series("1.2.4")
    for association in ("A", "B"):
        folder = folders.claim(first, association)
        folders.release(folder, association, stored=association == "A")
    folders.release(folders.claim(second, "A"), "A", stored=False)
    assert folders.association_ended("A") == [second.key]
    assert folders.association_ended("B") == [first.key]
    assert folders.association_ended("B") == []


def test_a_restored_series_continues_in_its_folder() -> None:
    folders = SeriesFolders()
    folders.restore(series(patient="P1"), ("A",))
    folder = folders.claim(series(patient="P2"), "A")
    assert b"P1" in folder.path
    assert not folder.journaled
    failed(folders, folder)
    folders.association_ended("A")
    assert len(folders) == 1
    folders.completed(series().key, ("A", "B"))
    assert len(folders) == 0


# ---- several processes -------------------------------------------------------------------


class Names:
    """Folder names of several processes (ports.FolderNames): claims and releases in order."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.in_force: SeriesInfo | None = None

    def claim(self, series: SeriesInfo) -> SeriesInfo:
        self.events.append(f"claim {series.patient_id}")
        return self.in_force or series

    def release(self, key: SeriesKey) -> None:
        assert key == series().key
        self.events.append("release")


def test_a_name_is_claimed_once_and_released_when_the_series_is_registered() -> None:
    names = Names()
    names.in_force = series(patient="P9")
    folders = SeriesFolders(names)
    folder = folders.claim(series(patient="P1"), "A")
    assert folder.series is names.in_force
    assert folder.differing == 1
    assert folders.claim(series(patient="P1"), "B") is folder
    stored(folders, folder, "A")
    stored(folders, folder, "B")
    folders.association_ended("A")
    folders.association_ended("B")
    folders.completed(series().key, ("A",))
    assert names.events == ["claim P1"]
    folders.completed(series().key, ("B",))
    assert names.events == ["claim P1", "release"]
    assert len(folders) == 0


def test_a_name_is_released_at_once_when_no_instance_was_stored() -> None:
    names = Names()
    folders = SeriesFolders(names)
    folder = folders.claim(series(patient="P1"), "A")
    folders.claim(series(patient="P1"), "A")
    failed(folders, folder)
    assert names.events == ["claim P1"], "the other instance is still pending"
    failed(folders, folder)
    assert names.events == ["claim P1", "release"]
    again = folders.claim(series(patient="P2"), "A")
    stored(folders, again)
    failed(folders, folders.claim(series(patient="P2"), "A"))
    assert names.events == ["claim P1", "release", "claim P2"]
    folders.association_ended("A")
    folders.completed(series().key, ("A",))
    assert names.events == ["claim P1", "release", "claim P2", "release"]
    assert len(folders) == 0


def test_a_name_is_released_once_by_a_failure_after_the_end_of_the_association() -> None:
    names = Names()
    folders = SeriesFolders(names)
    folder = folders.claim(series(), "A")
    folders.association_ended("A")
    failed(folders, folder)
    assert names.events == ["claim P1", "release"]
    assert len(folders) == 0


def test_in_a_shared_folder_no_process_replaces_older_files(root: int, tmp_path: Path) -> None:
    """Two processes that each took the other's file for the older one would lose the instance."""
    make_folders(root, PATH, sync=False)
    (tmp_path / os.fsdecode(PATH) / "0001-1.2.dcm").touch()
    folder = SharedSeriesFolder(series(patient="patient"))
    assert folder.listed
    folder.list_files(root)
    assert folder.replace("0002-1.2.dcm") is None
    assert folder.replace("0003-1.2.dcm") is None


# ---- files -------------------------------------------------------------------------------


def test_one_file_of_an_instance_is_placed_at_a_time() -> None:
    folder = SeriesFolder(series())
    turns: list[str] = []

    def on_a_thread(name: str) -> None:
        folder.placing["1.2"] = deque()
        turns.append(name)

    assert folder.may_place("1.2", lambda: None)
    on_a_thread("first")
    assert not folder.may_place("1.2", lambda: on_a_thread("second"))
    assert not folder.may_place("1.2", lambda: turns.append("third, inline"))
    assert not folder.may_place("1.2", lambda: turns.append("fourth, inline"))
    assert folder.may_place("1.3", lambda: None)
    folder.placed("1.2")
    assert turns == ["first", "second"]
    folder.placed("1.2")
    assert turns == ["first", "second", "third, inline", "fourth, inline"]
    assert folder.placing == {}
    folder.placed("1.2")


def test_a_file_replaces_the_older_one_of_its_instance() -> None:
    folder = SeriesFolder(series())
    assert folder.replace("0001-1.2.dcm") is None
    assert folder.replace("0001-1.2.dcm") is None
    assert folder.replace("0002-1.2.dcm") == "0001-1.2.dcm"
    assert folder.replace("0002-1.2-9.dcm") is None
    assert folder.replace("0003-1.2-9.dcm") is None


def test_a_placed_file_is_newer_than_a_listed_one(root: int, tmp_path: Path) -> None:
    make_folders(root, PATH, sync=False)
    folder = SeriesFolder(series(patient="patient"))
    for name in ("0001-1.2.dcm", "0001-1.3.dcm"):
        (tmp_path / os.fsdecode(PATH) / name).touch()
    folder.replace("0009-1.2.dcm")
    folder.list_files(root)
    assert folder.listed
    assert folder.files == {"1.2": "0009-1.2.dcm", "1.3": "0001-1.3.dcm"}
