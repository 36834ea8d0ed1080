"""Folders and files below a root: no symbolic link is followed (decision 25)."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oxidicom._writer import Gather, PartFile, use_openat2
from oxidicom.below_root import (
    create_empty_file,
    is_below,
    list_files,
    make_folders,
    open_folder,
    open_folder_if_there,
    open_root,
    remove_file,
)

PATH = b"SERVICES/PACS/AET/patient/study/series"
OUTSIDE = [b"", b"/", b"../out", b"a/../../out", b"./a", b"a//b", b"a\0b", b"/a", b"a/"]


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    before = len(os.listdir("/proc/self/fd"))
    fd = open_root(tmp_path)
    yield fd
    os.close(fd)
    assert len(os.listdir("/proc/self/fd")) == before, "a descriptor leaked"


def every_function(root: int, path: bytes) -> list[Callable[[], object]]:
    return [
        lambda: make_folders(root, path, sync=False),
        lambda: open_folder(root, path),
        lambda: list_files(root, path),
        lambda: create_empty_file(root, path, b"new", sync=False),
        lambda: remove_file(root, path, b"sub"),
    ]


def test_the_root_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    os.close(open_root(tmp_path / "link"))


@pytest.mark.parametrize("depth", range(6))
@pytest.mark.parametrize("kind", ["link", "file"])
def test_a_link_or_a_file_in_the_path_is_an_error(
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
    for call in every_function(root, PATH):
        with pytest.raises(OSError) as caught:  # noqa: PT011
            call()
        assert caught.value.errno in (errno.ELOOP, errno.ENOTDIR)
    assert open_folder_if_there(root, PATH) is None
    assert list_files(root, PATH, missing_ok=True) == []
    assert os.listdir(outside) == ["sub"]


@pytest.mark.parametrize("path", OUTSIDE)
def test_a_path_that_leads_elsewhere_is_an_error(root: int, tmp_path: Path, path: bytes) -> None:
    assert not is_below(path)
    for call in every_function(root, path):
        with pytest.raises(OSError, match="Invalid argument"):
            call()
    assert open_folder_if_there(root, path) is None
    assert list_files(root, path, missing_ok=True) == []
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", [b"", b".", b"..", b"../x", b"x/y", b"x\0"])
def test_a_name_of_more_than_one_component_is_an_error(
    root: int, tmp_path: Path, name: bytes
) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError, match="Invalid argument"):
        create_empty_file(root, b"a", name, sync=False)
    with pytest.raises(OSError, match="Invalid argument"):
        remove_file(root, b"a", name)


@pytest.mark.parametrize("openat2", [True, False])
@pytest.mark.parametrize("path", [*OUTSIDE, PATH, b"link", b"link/sub", b"file", b"missing"])
def test_the_compiled_writer_opens_the_same_folders(
    root: int, tmp_path: Path, path: bytes, openat2: bool
) -> None:
    for name in ("inside", "sub", os.fsdecode(PATH)):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to(".")
    (tmp_path / "file").touch()
    part = PartFile(root, b"part", b"header")
    use_openat2(openat2)
    try:
        placed = part.place(Gather(), root, path, b"name")
    except (OSError, ValueError):
        placed = False
    finally:
        use_openat2(True)
    fd = open_folder_if_there(root, path)
    if fd is not None:
        assert placed is os.path.exists(f"/proc/self/fd/{fd}/name")
        os.close(fd)
    assert placed is (path == PATH)


# ---- folders -----------------------------------------------------------------------------


@pytest.mark.parametrize("sync", [False, True])
def test_folders_are_made_where_they_are_missing(root: int, tmp_path: Path, sync: bool) -> None:
    assert make_folders(root, PATH, sync=sync)
    assert not make_folders(root, PATH, sync=sync)
    assert make_folders(root, PATH + b"2", sync=sync)
    assert (tmp_path / os.fsdecode(PATH)).is_dir()


def test_the_first_folder_can_have_a_mode_of_its_own(root: int, tmp_path: Path) -> None:
    make_folders(root, b"a/b", sync=False, first_mode=0o700)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "a/b").stat().st_mode & 0o777 == 0o755 & ~current_umask()


def current_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def test_every_parent_is_synced_even_where_it_existed(
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


def test_a_sync_that_fails_leaks_no_descriptor(root: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        make_folders(root, PATH, sync=True)


def test_a_folder_is_closed_once_even_if_closing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing frees the descriptor number at once, and another thread may have got it since."""
    root = open_root(tmp_path)
    before = sorted(os.listdir("/proc/self/fd"))
    really_close = os.close

    def close(fd: int) -> None:
        really_close(fd)
        raise OSError(errno.EIO, "")

    with monkeypatch.context() as storage:
        storage.setattr(os, "close", close)
        assert make_folders(root, PATH, sync=True)
        assert list_files(root, PATH) == []
    assert sorted(os.listdir("/proc/self/fd")) == before
    os.close(root)


# ---- files -------------------------------------------------------------------------------


def test_only_regular_files_are_listed(root: int, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("b.dcm", "a.dcm"):
        (tmp_path / "a" / name).touch()
    (tmp_path / "a/folder.dcm").mkdir()
    (tmp_path / "a/link.dcm").symlink_to("a.dcm")
    assert sorted(list_files(root, b"a")) == ["a.dcm", "b.dcm"]


def test_a_missing_folder_has_no_files_where_that_is_allowed(root: int) -> None:
    assert list_files(root, b"missing/folder", missing_ok=True) == []
    with pytest.raises(FileNotFoundError):
        list_files(root, b"missing/folder")


def test_a_folder_that_cannot_be_read_is_an_error(
    root: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    (tmp_path / "a").mkdir()
    with monkeypatch.context() as storage:
        storage.setattr(os, "scandir", failing)
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            list_files(root, b"a", missing_ok=True)
    with pytest.raises(OSError, match="too long"):
        list_files(root, b"x" * 300, missing_ok=True)


def test_only_regular_files_are_removed(root: int, tmp_path: Path) -> None:
    make_folders(root, PATH, sync=False)
    folder = tmp_path / os.fsdecode(PATH)
    (folder / "file").touch()
    (folder / "folder").mkdir()
    (folder / "link").symlink_to(folder / "folder")
    for name in (b"file", b"folder", b"link", b"missing"):
        remove_file(root, PATH, name)
    assert sorted(os.listdir(folder)) == ["folder", "link"]
