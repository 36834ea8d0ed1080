"""Access to the folders of series for registration over HTTP."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from oxidicom.store.series_files import LocalSeriesFiles

FOLDER = "SERVICES/PACS/P/s"


@pytest.fixture(params=[False, True])
def files(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[LocalSeriesFiles]:
    (tmp_path / "root").mkdir()
    fd = os.open(tmp_path / "root", os.O_RDONLY | os.O_DIRECTORY)
    yield LocalSeriesFiles(fd, sync=request.param)
    os.close(fd)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "root" / FOLDER
    folder.mkdir(parents=True)
    return folder


def test_names_of_regular_files_are_listed_in_order(files: LocalSeriesFiles, folder: Path) -> None:
    for name in ("b.dcm", "a.dcm", "notes", "ü.dcm"):
        (folder / name).touch()
    (folder / "folder.dcm").mkdir()
    (folder / "link.dcm").symlink_to("a.dcm")
    (folder / os.fsdecode(b"bad\xff.dcm")).touch()
    (folder / "line\nbreak.dcm").touch()
    assert files.names(FOLDER) == ["a.dcm", "b.dcm", "notes", "ü.dcm"]


@pytest.mark.parametrize(
    "path", ["SERVICES/PACS/Q", "a/b", f"{FOLDER}/file", "../outside", f"{FOLDER}/../s", "/etc", ""]
)
def test_a_path_that_is_not_a_folder_below_the_root_has_no_files(
    files: LocalSeriesFiles, folder: Path, tmp_path: Path, path: str
) -> None:
    (folder / "file").touch()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "a.dcm").touch()
    (tmp_path / "root" / "a").symlink_to(tmp_path)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "a.dcm").touch()
    assert files.names(path) == []


def test_a_folder_that_cannot_be_read_is_an_error(
    files: LocalSeriesFiles, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(OSError, match="Input/output error"):
        files.names(FOLDER)


def test_an_empty_file_is_created_with_its_folders_and_never_overwritten(
    files: LocalSeriesFiles, tmp_path: Path
) -> None:
    files.put_empty(f"{FOLDER}/x", "K=5")
    file = tmp_path / "root" / FOLDER / "x" / "K=5"
    assert file.read_bytes() == b""
    assert file.stat().st_mode & 0o777 == 0o644 & ~current_umask()
    file.write_bytes(b"kept")
    files.put_empty(f"{FOLDER}/x", "K=5")
    assert file.read_bytes() == b"kept"


def current_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def test_no_file_is_created_through_a_link(
    files: LocalSeriesFiles, folder: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (folder / "outside").symlink_to(outside)
    (folder / "K=1").symlink_to(outside / "planted")
    with pytest.raises(OSError, match=r".*"):
        files.put_empty(f"{FOLDER}/outside", "K=5")
    with pytest.raises(OSError, match=r".*"):
        files.put_empty(FOLDER, "K=1")
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "name"), [("../x", "K"), (FOLDER, "../K"), (FOLDER, ".."), ("/x", "K"), (FOLDER, "")]
)
def test_no_file_is_created_outside_the_root(
    files: LocalSeriesFiles, folder: Path, tmp_path: Path, path: str, name: str
) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OSError, match="Invalid argument"):
        files.put_empty(path, name)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_or_pipe_of_that_name_is_an_error(files: LocalSeriesFiles, folder: Path) -> None:
    os.mkfifo(folder / "K=5")
    (folder / "K=6").mkdir()
    for name in ("K=5", "K=6"):
        with pytest.raises(OSError, match=r".*"):
            files.put_empty(FOLDER, name)
