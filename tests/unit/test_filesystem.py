"""Small files written atomically and read without trust."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from oxidicom import filesystem


class Calls:
    """Records the real system calls in their order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[str] = []
        for name in ("write", "fsync", "close", "rename"):
            monkeypatch.setattr(os, name, self._noting(name, getattr(os, name)))

    def _noting(self, name: str, call: Any) -> Any:
        def noted(*arguments: Any) -> Any:
            what = name
            if name == "fsync" and stat.S_ISDIR(os.fstat(arguments[0]).st_mode):
                what = "fsync folder"
            self.made.append(what)
            return call(*arguments)

        return noted


@pytest.mark.parametrize("sync", [False, True])
def test_a_written_file_can_be_read(tmp_path: Path, sync: bool) -> None:
    filesystem.write_atomically(tmp_path, "a.json", b"one", sync=sync)
    filesystem.write_atomically(tmp_path, "b.json", b"", sync=sync)
    filesystem.write_atomically(tmp_path, "a.json", b"three", sync=sync)
    assert filesystem.read_small(tmp_path / "a.json") == b"three"
    assert filesystem.read_small(tmp_path / "b.json") == b""
    assert sorted(os.listdir(tmp_path)) == ["a.json", "b.json"]
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o600


def test_the_file_is_synced_before_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(monkeypatch)
    filesystem.write_atomically(tmp_path, "a", b"1", sync=True)
    assert calls.made == ["write", "fsync", "close", "rename", "fsync folder", "close"]
    calls.made.clear()
    filesystem.write_atomically(tmp_path, "a", b"1", sync=False)
    assert calls.made == ["write", "close", "rename"]


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
    filesystem.write_atomically(tmp_path, "a", b"0123456789", sync=False)
    assert (tmp_path / "a").read_bytes() == b"0123456789"


@pytest.mark.parametrize("failing", ["write", "fsync", "close", "rename"])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    filesystem.write_atomically(tmp_path, "a", b"old", sync=True)
    real = getattr(os, failing)

    def fail(*arguments: Any) -> None:
        if failing == "close":
            real(*arguments)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, failing, fail)
        with pytest.raises(OSError, match="No space") as raised:
            filesystem.write_atomically(tmp_path, "a", b"new", sync=True)
    assert raised.value.errno == errno.ENOSPC
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_readers_see_complete_files_only(tmp_path: Path) -> None:
    texts = [bytes([letter]) * 50_000 for letter in b"abcd"]
    filesystem.write_atomically(tmp_path, "a", texts[0], sync=False)
    seen: set[bytes] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(filesystem.read_small(tmp_path / "a"))

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(400):
        filesystem.write_atomically(tmp_path, "a", texts[turn % 4], sync=False)
    done.set()
    reader.join()
    assert seen
    assert seen <= set(texts)


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "../a"])
def test_a_name_that_is_hidden_or_a_path_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        filesystem.write_atomically(tmp_path, name, b"", sync=False)
    assert os.listdir(tmp_path) == []


def test_the_size_is_limited_in_writing_and_reading(tmp_path: Path) -> None:
    filesystem.write_atomically(tmp_path, "a", bytes(filesystem.MAX_SMALL_FILE), sync=False)
    assert len(filesystem.read_small(tmp_path / "a")) == filesystem.MAX_SMALL_FILE
    with pytest.raises(OSError, match="too large") as raised:
        filesystem.write_atomically(tmp_path, "b", bytes(filesystem.MAX_SMALL_FILE + 1), sync=False)
    assert raised.value.errno == errno.EFBIG
    (tmp_path / "b").write_bytes(bytes(filesystem.MAX_SMALL_FILE + 9))
    assert len(filesystem.read_small(tmp_path / "b")) == filesystem.MAX_SMALL_FILE + 1


def test_reading_neither_follows_links_nor_blocks_on_pipes(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="symbolic links"):
        filesystem.read_small(tmp_path / "link")
    assert filesystem.read_small(tmp_path / "pipe") == b""
    writer = os.open(tmp_path / "pipe", os.O_RDWR)
    try:
        assert filesystem.read_small(tmp_path / "pipe") == b""
    finally:
        os.close(writer)


def test_names_are_final_ones_and_sorted(tmp_path: Path) -> None:
    for name in ("b", "a", ".nfs0001", ".0123.tmp", "c.bad"):
        (tmp_path / name).touch()
    assert filesystem.names(tmp_path) == ["a", "b", "c.bad"]


def test_only_stale_temporary_files_are_removed(tmp_path: Path) -> None:
    long_ago = time.time() - 7200
    for name in (".old.tmp", ".new.tmp", ".nfs0001", "a.tmp", "a"):
        (tmp_path / name).touch()
        if name != ".new.tmp":
            os.utime(tmp_path / name, (long_ago, long_ago))
    filesystem.remove_stale_temporaries(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".new.tmp", ".nfs0001", "a", "a.tmp"]


def test_a_killed_process_leaves_a_temporary_file_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def die(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", die)
        patched.setattr(filesystem, "remove_if_there", lambda _: None)
        with pytest.raises(Killed):
            filesystem.write_atomically(tmp_path, "a", b"1", sync=False)
    (left,) = os.listdir(tmp_path)
    assert filesystem.names(tmp_path) == []
    os.utime(tmp_path / left, (0, 0))
    filesystem.remove_stale_temporaries(tmp_path)
    assert os.listdir(tmp_path) == []


def test_the_temporary_file_of_a_dead_process_is_removed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of a living process is kept, even if both are new."""
    program = (
        "import os, pathlib, signal, sys; from oxidicom import filesystem\n"
        "os.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "filesystem.write_atomically(pathlib.Path(sys.argv[1]), 'a', b'1', sync=False)"
    )
    killed = subprocess.run([sys.executable, "-c", program, tmp_path], check=False)
    assert killed.returncode == -signal.SIGKILL
    (dead,) = os.listdir(tmp_path)

    def sweep_then_rename(temporary: str, target: str) -> None:
        filesystem.remove_stale_temporaries(tmp_path)
        assert os.listdir(tmp_path) == [os.path.basename(temporary)] != [dead]
        os.replace(temporary, target)

    monkeypatch.setattr(os, "rename", sweep_then_rename)
    filesystem.write_atomically(tmp_path, "b", b"2", sync=False)
    assert os.listdir(tmp_path) == ["b"]


@pytest.mark.parametrize("sync", [False, True])
def test_folders_are_readable_by_their_user_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sync: bool
) -> None:
    calls = Calls(monkeypatch)
    folder = tmp_path / "state" / "journal"
    filesystem.create_folder(folder, sync=sync)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert calls.made.count("fsync folder") == (2 if sync else 0)
    calls.made.clear()
    filesystem.create_folder(folder, sync=sync)
    assert calls.made == []


def test_a_file_in_the_place_of_the_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "journal").touch()
    with pytest.raises(FileExistsError):
        filesystem.create_folder(tmp_path / "journal", sync=False)


def test_removing_a_missing_file_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    filesystem.remove_if_there(tmp_path / "a")
    filesystem.remove_if_there(tmp_path / "a")
    assert os.listdir(tmp_path) == []
    with pytest.raises(OSError, match=r"directory|permitted"):
        filesystem.remove_if_there(tmp_path)


def test_a_temporary_file_that_cannot_be_removed_is_removed_by_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(number: int) -> Any:
        def call(*_: Any) -> None:
            raise OSError(number, os.strerror(number))

        return call

    with monkeypatch.context() as storage:
        storage.setattr(os, "rename", failing(errno.ENOSPC))
        storage.setattr(os, "unlink", failing(errno.EIO))
        with pytest.raises(OSError, match="space"):
            filesystem.write_atomically(tmp_path, "a.json", b"one", sync=False)
        assert len(os.listdir(tmp_path)) == 1
    filesystem.write_atomically(tmp_path, "b.json", b"two", sync=False)
    assert os.listdir(tmp_path) == ["b.json"]
