"""The files of instances in the folder of a series: names, listing, counting (decision 29)."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxidicom.below_root import make_folders
from oxidicom.ports import SeriesInfo
from oxidicom.store.instance_files import (
    count_instances,
    instance_uid_of,
    keep_newest,
    list_instances,
)
from oxidicom.store.paths import instance_file_name

PATH = b"SERVICES/PACS/AET/patient/study/series"


def series(path: str = os.fsdecode(PATH)) -> SeriesInfo:
    return SeriesInfo(
        calling_ae_title="AET",
        pacs_name="AET",
        path=path,
        patient_id="P",
        study_date="2020-01-02",
        study_instance_uid="1",
        series_instance_uid="1.2",
    )


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.fixture
def folder(root: int, tmp_path: Path) -> Path:
    make_folders(root, PATH, sync=False)
    return tmp_path / os.fsdecode(PATH)


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
def test_the_uid_in_a_file_name(name: str, uid: str | None) -> None:
    assert instance_uid_of(name) == uid


text = st.text(st.sampled_from("0123456789.-_ax"), max_size=12)


@given(st.none() | text, text.filter(bool) | st.just("1.2.3"))
def test_a_file_name_never_tells_the_uid_of_another_instance(number: str | None, uid: str) -> None:
    """A name tells the UID that it was made from, or none."""
    assert instance_uid_of(instance_file_name(number, uid)) in (None, uid)


@given(st.integers(0, 2**40), st.integers(1, 2**100))
def test_the_file_name_of_a_common_instance_tells_its_uid(number: int, uid: int) -> None:
    name = instance_file_name(str(number), f"2.25.{uid}")
    assert instance_uid_of(name) == f"2.25.{uid}"


# ---- listing -----------------------------------------------------------------------------


def test_files_without_a_uid_in_their_names_are_not_listed(root: int, folder: Path) -> None:
    (folder / "0001-1.2.3.dcm").touch()
    (folder / "series.xml").touch()
    with open(os.fsencode(folder) + b"/\xff\xfe-1.2.dcm", "wb"):
        pass
    (folder / "0001-1.2.4.dcm").mkdir()
    listed = list_instances(root, PATH)
    assert listed["1.2.3"] == "0001-1.2.3.dcm"
    assert "1.2.4" not in listed
    assert len(listed) <= 2


# ---- counting ----------------------------------------------------------------------------


def test_the_dcm_files_that_cube_finds_are_counted(tmp_path: Path, folder: Path) -> None:
    assert count_instances(tmp_path, series()) == 0
    for name in ("0001-1.dcm", "0002-2.dcm", ".dcm", "3.DCM", "4.dcm.tmp", "dcm"):
        (folder / name).touch()
    (folder / "folder.dcm").mkdir()
    (folder / "folder.dcm" / "5.dcm").touch()
    (folder / "link.dcm").symlink_to(folder / "0001-1.dcm")
    assert count_instances(tmp_path, series()) == 3


def test_a_missing_folder_has_no_instances(tmp_path: Path) -> None:
    assert count_instances(tmp_path, series()) == 0
    (tmp_path / "SERVICES").touch()
    assert count_instances(tmp_path, series()) == 0


@pytest.mark.parametrize("linked", range(1, 7))
def test_counting_follows_no_link_below_the_root(tmp_path: Path, linked: int) -> None:
    """Decision 25."""
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    (elsewhere / series().path).mkdir(parents=True)
    (elsewhere / series().path / "1.dcm").touch()
    assert count_instances(elsewhere, series()) == 1
    link = Path(*series().path.split("/")[:linked])
    (root / link).parent.mkdir(parents=True)
    (root / link).symlink_to(elsewhere / link)
    assert (root / series().path / "1.dcm").exists()
    assert count_instances(root, series()) == 0


def test_counting_follows_a_link_to_the_root(tmp_path: Path) -> None:
    (tmp_path / "real" / series().path).mkdir(parents=True)
    (tmp_path / "real" / series().path / "1.dcm").touch()
    (tmp_path / "root").symlink_to("real")
    assert count_instances(tmp_path / "root", series()) == 1


@pytest.mark.parametrize("path", ["", "/", "../out", "a/../../out", "./a", "a//b", "a\0b", "/a"])
def test_a_path_that_leads_elsewhere_has_no_instances(tmp_path: Path, path: str) -> None:
    for each in ("out", "root/a/b"):
        (tmp_path / each).mkdir(parents=True)
        (tmp_path / each / "1.dcm").touch()
    (tmp_path / "root" / "1.dcm").touch()
    assert count_instances(tmp_path / "root", series(path)) == 0


def test_a_missing_root_is_an_error(tmp_path: Path) -> None:
    """Its volume is not mounted: the count is unknown."""
    with pytest.raises(FileNotFoundError):
        count_instances(tmp_path / "not mounted", series())


def test_counting_leaks_no_descriptor(tmp_path: Path, folder: Path) -> None:
    before = os.listdir("/proc/self/fd")
    count_instances(tmp_path, series())
    count_instances(tmp_path, series("SERVICES/PACS/none/below"))
    with pytest.raises(OSError, match="too long"):
        count_instances(tmp_path, series("SERVICES/" + "x" * 300))
    assert os.listdir("/proc/self/fd") == before


# ---- the newest file ---------------------------------------------------------------------


def test_only_the_newest_file_of_an_instance_is_kept(root: int, folder: Path) -> None:
    for name in ("0003-1.2.dcm", "0001-1.2.dcm", "0002-1.2.dcm", "0001-1.3.dcm", "0001-1.4.dcm"):
        (folder / name).touch()
        wait_until_files_are_newer(folder)
    # Renaming sets the change time: an instance gets its file name by a rename.
    (folder / "0003-1.2.dcm").rename(folder / "0004-1.2.dcm")
    (folder / "0002-1.4.dcm").mkdir()
    (folder / "1.4.dcm").touch()
    keep_newest(root, PATH)
    assert sorted(os.listdir(folder)) == [
        *("0001-1.3.dcm", "0001-1.4.dcm", "0002-1.4.dcm", "0004-1.2.dcm", "1.4.dcm")
    ]


@pytest.mark.parametrize("path", [b"SERVICES/PACS/not/there", b"../elsewhere"])
def test_a_missing_folder_has_nothing_to_remove(root: int, path: bytes) -> None:
    keep_newest(root, path)


def wait_until_files_are_newer(folder: Path) -> None:
    """Wait until a new file gets a later change time than those that exist."""
    probe = folder / "probe"
    before = time.time_ns()
    while True:
        probe.touch()
        changed = probe.stat().st_ctime_ns
        probe.unlink()
        if changed > before:
            return


def test_a_folder_that_cannot_be_listed_is_an_error(
    root: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(fd: int) -> list[str]:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    with monkeypatch.context() as storage:
        storage.setattr(os, "listdir", stale)
        with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
            keep_newest(root, PATH)
