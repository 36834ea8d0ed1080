"""The folder of temporary files: those of dead processes are removed (promise 3)."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from oxidicom._writer import Gather
from oxidicom.process_signature import sign, start_of
from oxidicom.store.temporary import TemporaryFolder


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    before = len(os.listdir("/proc/self/fd"))
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)
    assert len(os.listdir("/proc/self/fd")) == before, "a descriptor leaked"


def gathered() -> Gather:
    gather = Gather()
    gather.add(b"data", 0, 4)
    return gather


def test_the_folder_is_readable_by_its_user_only(root: int, tmp_path: Path) -> None:
    temporary = TemporaryFolder(root)
    temporary.close()
    assert stat.S_IMODE((tmp_path / ".oxidicom").stat().st_mode) == 0o700
    TemporaryFolder(root).close()


def test_names_of_two_folders_differ(root: int, tmp_path: Path) -> None:
    first, second = TemporaryFolder(root), TemporaryFolder(root)
    parts = [folder.part_file(b"") for folder in (first, second, first, second)]
    for part in parts:
        part.write(gathered())
    assert len(os.listdir(tmp_path / ".oxidicom/tmp")) == 4
    del parts, part
    first.close()
    second.close()


def test_a_file_that_cannot_be_removed_is_removed_later(
    root: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "")

    temporary = TemporaryFolder(root)
    part = temporary.part_file(b"")
    part.write(gathered())
    (path,) = (tmp_path / ".oxidicom/tmp").iterdir()
    path.unlink()
    path.mkdir()  # unlinkat says EISDIR
    part.discard()
    assert temporary.unremoved == [path.name.encode()]
    path.rmdir()
    path.touch()
    with monkeypatch.context() as storage:
        storage.setattr(os, "unlink", failing)
        temporary.retry_removals()
    assert temporary.unremoved == [path.name.encode()]
    temporary.retry_removals()
    assert temporary.unremoved == []
    assert not path.exists()
    path.mkdir()
    temporary.unremoved.append(path.name.encode())
    temporary.retry_removals()
    assert temporary.unremoved == [], "a folder of that name is not removed"
    temporary.close()


def test_only_files_of_dead_processes_are_removed(root: int, tmp_path: Path) -> None:
    """There are files of this process, another living one, a dead one and one whose number another
    process has now."""
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], stdout=-1, check=True
    )
    dead_pid = int(dead.stdout)
    temporary, neighbour = TemporaryFolder(root), TemporaryFolder(root)
    mine, theirs = temporary.part_file(b""), neighbour.part_file(b"")
    mine.write(gathered())
    theirs.write(gathered())
    folder = tmp_path / ".oxidicom/tmp"
    own = sorted(os.listdir(folder))
    host, pid, start, *_ = own[0].rsplit("-", 4)
    assert int(pid) == os.getpid()
    stale = [
        f"{host}-{dead_pid}-12345-0123abcd-0.part",
        f"{host}-{pid}-{int(start) + 1}-0123abcd-7.part",
    ]
    old = time.time() - 25 * 3600
    kept = [
        "other.host-1-1-0123abcd-0.part",
        "a file of another program",
        f"{host}-x-1-0123abcd-0.part",
        f"{host}-{'9' * 30}-1-0123abcd-0.part",
    ]
    abandoned = "another.host-1-1-0123abcd-0.part"
    for name in (*stale, *kept, abandoned):
        (folder / name).write_bytes(b"half")
        # A file of another host is removed after a day, not after seconds.
        os.utime(folder / name, (old, old) if name == abandoned else (time.time() - 60,) * 2)
    for name in own:
        os.utime(folder / name, (time.time() - 60,) * 2)
    assert temporary.sweep() == 3
    assert sorted(os.listdir(folder)) == sorted([*own, *kept])
    assert temporary.sweep() == 0
    mine.discard()
    theirs.discard()
    temporary.close()
    neighbour.close()


def test_files_of_a_dead_process_are_removed_before_its_parent_has_waited_for_it(
    root: int, tmp_path: Path
) -> None:
    """Its process number stays in use until then."""
    temporary = TemporaryFolder(root)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        start = start_of(child.pid)
        assert start is not None
        name = f"{sign().partition('-')[0]}-{child.pid}-{start}-0123abcd-0.part"
        left = tmp_path / ".oxidicom/tmp" / name
        left.write_bytes(b"half")
        assert temporary.sweep() == 0
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert temporary.sweep() == 1
    temporary.close()


def test_a_removed_folder_is_made_again_under_the_same_descriptor(
    root: int, tmp_path: Path
) -> None:
    temporary = TemporaryFolder(root)
    number = temporary.fd
    lost = temporary.part_file(b"")
    lost.write(gathered())
    not_created = temporary.part_file(b"h")
    shutil.rmtree(tmp_path / ".oxidicom")
    temporary.make_again()
    temporary.make_again()
    assert temporary.fd == number
    assert not os.get_inheritable(number)
    gather = gathered()
    not_created.write(gather)
    (tmp_path / "final").mkdir()
    assert not_created.place(Gather(), root, b"final", b"x")
    assert (tmp_path / "final/x").read_bytes() == b"hdata"
    with pytest.raises(FileNotFoundError):
        lost.place(Gather(), root, b"final", b"y")
    del lost
    temporary.close()


@pytest.mark.parametrize("component", [".oxidicom", ".oxidicom/tmp"])
def test_a_link_in_the_place_of_the_folder_is_an_error(
    root: int, tmp_path: Path, component: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / component).parent.mkdir(exist_ok=True)
    (tmp_path / component).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):  # noqa: PT011
        TemporaryFolder(root)
    assert os.listdir(tmp_path / "elsewhere") == []
