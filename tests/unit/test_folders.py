"""Which folder a series goes to and what lies in it (decisions 25, 26, 29)."""

from __future__ import annotations

import errno
import os
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxidicom.ports import SeriesInfo, SeriesKey
from oxidicom.store.folders import (
    SeriesFolder,
    SeriesFolders,
    SharedSeriesFolder,
    instance_uid_of,
    keep_newest,
    list_instances,
    make_folders,
    open_folder,
    remove_file,
)
from oxidicom.store.paths import instance_file_name

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
    before = len(os.listdir("/proc/self/fd"))
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)
    assert len(os.listdir("/proc/self/fd")) == before, "a descriptor leaked"


def stored(folders: SeriesFolders, folder: SeriesFolder, association: str = "A") -> None:
    folders.settled(folder, association, stored=True)


def failed(folders: SeriesFolders, folder: SeriesFolder, association: str = "A") -> None:
    folders.settled(folder, association, stored=False)


# ---- claims ------------------------------------------------------------------------------


def test_the_first_stored_instance_names_the_folder() -> None:
    folders = SeriesFolders()
    first = folders.claim(series(patient="P1"), "A")
    stored(folders, first)
    assert folders.claim(series(patient="P2"), "A") is first
    assert folders.claim(series(patient="P3"), "B") is first
    assert folders.claim(series(patient="P1"), "B") is first
    assert folders.differing == 2
    assert folders.claim(series("9.9", "P2"), "A") is not first


def test_an_instance_on_its_way_binds_one_that_failed_does_not() -> None:
    folders = SeriesFolders()
    first = folders.claim(series(patient="P1"), "A")
    assert folders.claim(series(patient="P2"), "B") is first
    failed(folders, first)
    assert folders.claim(series(patient="P2"), "B") is first, "the other is still on its way"
    failed(folders, first)
    failed(folders, first)
    again = folders.claim(series(patient="P2"), "B")
    assert again is not first
    assert b"P2" in again.path
    assert not again.journaled
    folders.association_ended("A")
    stored(folders, again)
    assert folders.claim(series(patient="P1"), "C") is again


def test_a_series_of_which_nothing_was_stored_is_forgotten() -> None:
    folders = SeriesFolders()
    failed(folders, folders.claim(series(), "A"))
    failed(folders, folders.claim(series(), "B"))
    folders.association_ended("A")
    assert len(folders) == 1
    folders.association_ended("B")
    folders.association_ended("never heard of")
    assert len(folders) == 0


def test_a_series_stays_until_it_is_complete() -> None:
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


def test_an_association_that_is_open_keeps_a_completed_series() -> None:
    """Its claim came while the completion was under way."""
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


def test_a_completed_series_ends_with_an_association_that_stored_nothing_more() -> None:
    """Nobody would ever complete it again."""
    folders = SeriesFolders()
    folder = folders.claim(series(), "A")
    stored(folders, folder)
    folders.association_ended("A")
    failed(folders, folders.claim(series(), "B"))
    folders.completed(series().key, ("A", "B"))
    folders.association_ended("B")
    assert len(folders) == 0


def test_a_restored_series_goes_on_where_it_lies() -> None:
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


def test_one_file_of_an_instance_at_a_time() -> None:
    folder = SeriesFolder(series())
    turns: list[str] = []

    def threaded(name: str) -> None:
        folder.placing["1.2"] = deque()
        turns.append(name)

    assert folder.enter("1.2", lambda: None)
    threaded("first")
    assert not folder.enter("1.2", lambda: threaded("second"))
    assert not folder.enter("1.2", lambda: turns.append("third, inline"))
    assert not folder.enter("1.2", lambda: turns.append("fourth, inline"))
    assert folder.enter("1.3", lambda: None)
    folder.leave("1.2")
    assert turns == ["first", "second"]
    folder.leave("1.2")
    assert turns == ["first", "second", "third, inline", "fourth, inline"]
    assert folder.placing == {}
    folder.leave("1.2")


class Names:
    """Of several processes (ports.FolderNames): what was claimed and released, in order."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.in_force: SeriesInfo | None = None

    def claim(self, series: SeriesInfo) -> SeriesInfo:
        self.events.append(f"claim {series.patient_id}")
        return self.in_force or series

    def release(self, key: SeriesKey) -> None:
        assert key == series().key
        self.events.append("release")


def test_names_are_claimed_once_and_released_when_the_reception_is_over() -> None:
    names = Names()
    names.in_force = series(patient="P9")
    folders = SeriesFolders(names)
    folder = folders.claim(series(patient="P1"), "A")
    assert folder.series is names.in_force
    assert folders.differing == 1
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


def test_names_of_which_nothing_was_stored_are_released_at_once_and_once() -> None:
    names = Names()
    folders = SeriesFolders(names)
    folder = folders.claim(series(patient="P1"), "A")
    folders.claim(series(patient="P1"), "A")
    failed(folders, folder)
    assert names.events == ["claim P1"], "the other is still on its way"
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


def test_a_failure_after_the_end_of_its_association_releases_names_once() -> None:
    names = Names()
    folders = SeriesFolders(names)
    folder = folders.claim(series(), "A")
    folders.association_ended("A")
    failed(folders, folder)
    assert names.events == ["claim P1", "release"]
    assert len(folders) == 0


def test_nobody_judges_alone_what_is_old_in_a_shared_folder(root: int, tmp_path: Path) -> None:
    """Two processes that each take the other's file for the older one would lose the instance."""
    make_folders(root, PATH, sync=False)
    (tmp_path / os.fsdecode(PATH) / "0001-1.2.dcm").touch()
    folder = SharedSeriesFolder(series(patient="patient"))
    assert folder.listed
    folder.list(root)
    assert folder.replace("0002-1.2.dcm") is None
    assert folder.replace("0003-1.2.dcm") is None


# ---- names of files ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "uid"),
    [
        ("0001-1.2.3.dcm", "1.2.3"),
        ("InstanceNumber-1.2.3.dcm", "1.2.3"),
        ("00-1-1.2.3.dcm", "1.2.3"),
        ("-123-1.2.3.dcm", "1.2.3"),
        ("4294967295-1.2.3.dcm", "1.2.3"),
        ("a_b\n-1.2.3.dcm", "1.2.3"),
        ("0001-1.2-3.4.dcm", None),
        ("12-34-5-1.2.3.dcm", None),
        ("0001-1.2_3.dcm", None),
        ("0001-.dcm", None),
        ("1.2.3.dcm", None),
        ("0001-1.2.3.DCM", None),
        ("0001-1.2.3.dcm.part", None),
        ("0001-1.2.3", None),
        ("", None),
        (f"{'x' * 238}-12345678.dcm", "12345678"),
        (f"{'x' * 242}-12345678.dcm", None),
    ],
)
def test_the_uid_of_a_file(name: str, uid: str | None) -> None:
    assert instance_uid_of(name) == uid


text = st.text(st.sampled_from("0123456789.-_ax"), max_size=12)


@given(st.none() | text, text.filter(bool) | st.just("1.2.3"))
def test_a_name_never_tells_another_instances_uid(number: str | None, uid: str) -> None:
    """What is read from a name is either nothing or what it was made from."""
    assert instance_uid_of(instance_file_name(number, uid)) in (None, uid)


@given(st.integers(0, 2**40), st.integers(1, 2**100))
def test_ordinary_names_tell_their_uid(number: int, uid: int) -> None:
    name = instance_file_name(str(number), f"2.25.{uid}")
    assert instance_uid_of(name) == f"2.25.{uid}"


def test_an_older_file_of_the_same_instance() -> None:
    folder = SeriesFolder(series())
    assert folder.replace("0001-1.2.dcm") is None
    assert folder.replace("0001-1.2.dcm") is None
    assert folder.replace("0002-1.2.dcm") == "0001-1.2.dcm"
    assert folder.replace("0002-1.2-9.dcm") is None
    assert folder.replace("0003-1.2-9.dcm") is None


def test_what_is_known_is_newer_than_what_is_listed(root: int, tmp_path: Path) -> None:
    make_folders(root, PATH, sync=False)
    folder = SeriesFolder(series(patient="patient"))
    for name in ("0001-1.2.dcm", "0001-1.3.dcm"):
        (tmp_path / os.fsdecode(PATH) / name).touch()
    folder.replace("0009-1.2.dcm")
    folder.list(root)
    assert folder.listed
    assert folder.files == {"1.2": "0009-1.2.dcm", "1.3": "0001-1.3.dcm"}


# ---- on disk -----------------------------------------------------------------------------


@pytest.mark.parametrize("sync", [False, True])
def test_folders_are_made_once(root: int, tmp_path: Path, sync: bool) -> None:
    assert make_folders(root, PATH, sync)
    assert not make_folders(root, PATH, sync)
    assert make_folders(root, PATH + b"2", sync)
    assert (tmp_path / os.fsdecode(PATH)).is_dir()


def test_every_parent_is_synced_whoever_made_it(
    root: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread may have made a folder and not have synced it yet."""
    synced: list[Path] = []
    monkeypatch.setattr(
        os, "fsync", lambda fd: synced.append(Path(os.readlink(f"/proc/self/fd/{fd}")))
    )
    for _ in range(2):
        synced.clear()
        make_folders(root, PATH, sync=True)
        parents = [tmp_path, *reversed((tmp_path / os.fsdecode(PATH)).parents[:5])]
        assert synced == [tmp_path, *[each for each in parents if each != tmp_path]]


def test_a_sync_that_fails_leaks_nothing(root: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        make_folders(root, PATH, sync=True)


@pytest.mark.parametrize("depth", range(6))
@pytest.mark.parametrize("kind", ["link", "file"])
def test_nothing_in_the_way_is_followed(
    root: int, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, depth: int, kind: str
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "sub").mkdir()
    planted = tmp_path.joinpath(*os.fsdecode(PATH).split("/")[: depth + 1])
    planted.parent.mkdir(parents=True, exist_ok=True)
    if kind == "link":
        planted.symlink_to(outside)
    else:
        planted.touch()
    for attempt in (
        lambda: make_folders(root, PATH, sync=False),
        lambda: open_folder(root, PATH),
        lambda: list_instances(root, PATH),
        lambda: remove_file(root, PATH, "sub"),
    ):
        with pytest.raises(OSError) as caught:  # noqa: PT011
            attempt()
        assert caught.value.errno in (errno.ELOOP, errno.ENOTDIR)
    assert os.listdir(outside) == ["sub"]


def test_only_files_are_removed(root: int, tmp_path: Path) -> None:
    make_folders(root, PATH, sync=False)
    folder = tmp_path / os.fsdecode(PATH)
    (folder / "file").touch()
    (folder / "folder").mkdir()
    (folder / "link").symlink_to(folder / "folder")
    for name in ("file", "folder", "link", "nothing"):
        remove_file(root, PATH, name)
    assert sorted(os.listdir(folder)) == ["folder", "link"]


def test_only_the_newest_file_of_an_instance_stays(root: int, tmp_path: Path) -> None:
    make_folders(root, PATH, sync=False)
    folder = tmp_path / os.fsdecode(PATH)
    for name in ("0003-1.2.dcm", "0001-1.2.dcm", "0002-1.2.dcm", "0001-1.3.dcm", "0001-1.4.dcm"):
        (folder / name).touch()
        wait_for_the_clock_of(folder)
    # Renaming makes new: that is how an instance comes to its name.
    (folder / "0003-1.2.dcm").rename(folder / "0004-1.2.dcm")
    (folder / "0002-1.4.dcm").mkdir()
    (folder / "1.4.dcm").touch()
    keep_newest(root, PATH)
    assert sorted(os.listdir(folder)) == [
        *("0001-1.3.dcm", "0001-1.4.dcm", "0002-1.4.dcm", "0004-1.2.dcm", "1.4.dcm")
    ]
    keep_newest(root, b"SERVICES/PACS/not/there")


def wait_for_the_clock_of(folder: Path) -> None:
    """Until a file made now is younger, by its change time, than those made before."""
    probe = folder / "probe"
    before = time.time_ns()
    while True:
        probe.touch()
        changed = probe.stat().st_ctime_ns
        probe.unlink()
        if changed > before:
            return


def test_a_folder_that_cannot_be_listed_is_an_error(
    root: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(fd: int) -> list[str]:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    make_folders(root, PATH, sync=False)
    monkeypatch.setattr(os, "listdir", stale)
    with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
        keep_newest(root, PATH)
    monkeypatch.undo()


def test_names_that_are_no_text_are_skipped(root: int, tmp_path: Path) -> None:
    make_folders(root, PATH, sync=False)
    folder = tmp_path / os.fsdecode(PATH)
    (folder / "0001-1.2.3.dcm").touch()
    (folder / "series.xml").touch()
    with open(os.fsencode(folder) + b"/\xff\xfe-1.2.dcm", "wb"):
        pass
    listed = list_instances(root, PATH)
    assert listed["1.2.3"] == "0001-1.2.3.dcm"
    assert len(listed) <= 2


def test_a_completion_takes_only_what_it_registered() -> None:
    """An association may store and end between a completion and our hearing of it."""
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


def test_a_failure_after_its_association_ended_leaves_nothing() -> None:
    folders = SeriesFolders()
    folder = folders.claim(series(), "A")
    folders.association_ended("A")
    assert len(folders) == 1
    failed(folders, folder)
    assert len(folders) == 0


def test_closing_a_folder_twice_would_close_what_others_have_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever closing says, the number is free at once, and may be another thread's."""
    root = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    before = sorted(os.listdir("/proc/self/fd"))
    really_close = os.close

    def close(fd: int) -> None:
        really_close(fd)
        raise OSError(errno.EIO, "")

    with monkeypatch.context() as storage:
        storage.setattr(os, "close", close)
        assert make_folders(root, PATH, sync=True)
        assert list_instances(root, PATH) == {}
    assert sorted(os.listdir("/proc/self/fd")) == before
    os.close(root)


def test_an_association_that_stored_nothing_of_a_series_says_so() -> None:
    folders = SeriesFolders()
    first, second = series("1.2.3"), series("1.2.4")
    for association in ("A", "B"):
        folder = folders.claim(first, association)
        folders.settled(folder, association, stored=association == "A")
    folders.settled(folders.claim(second, "A"), "A", stored=False)
    assert folders.association_ended("A") == [second.key]
    assert folders.association_ended("B") == [first.key]
    assert folders.association_ended("B") == []
