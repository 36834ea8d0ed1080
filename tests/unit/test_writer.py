"""Gather and PartFile: a complete file or none, whatever the system calls return."""

from __future__ import annotations

import errno
import gc
import os
import random
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from oxidicom._group_sync import FolderSync
from oxidicom._writer import Gather, PartFile, filesystem_type, use_openat2

FOLDER = b"SERVICES/PACS/AET/patient/study/series"
FINAL = b"0001-1.2.3.dcm"


class Root:
    """A files root with a folder of temporary files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = path / os.fsdecode(FOLDER)
        self.folder.mkdir(parents=True)
        self.temporary = path / ".oxidicom/tmp"
        self.temporary.mkdir(parents=True)
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        self.temporary_fd = os.open(self.temporary, os.O_RDONLY | os.O_DIRECTORY)

    def part(self, header: bytes = b"", name: bytes = b"a.part") -> PartFile:
        return PartFile(self.temporary_fd, name, header)

    def place(
        self, part: PartFile, gather: Gather | None = None, name: bytes = FINAL, sync: bool = False
    ) -> bool:
        shared = FolderSync() if sync else None
        return part.place(gather or Gather(), self.fd, FOLDER, name, shared)

    @property
    def final(self) -> Path:
        return self.folder / os.fsdecode(FINAL)

    def close(self) -> None:
        os.close(self.fd)
        os.close(self.temporary_fd)


@pytest.fixture(params=[True, False], ids=["openat2", "stepwise"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Root]:
    use_openat2(request.param)
    root = Root(tmp_path)
    before = descriptors()
    yield root
    # A part file that a traceback keeps alive would be removed later, by a descriptor number that
    # the folder of the next test may have by then.
    gc.collect()
    assert descriptors() == before, "a descriptor leaked"
    root.close()
    use_openat2(True)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def gathered(*pieces: bytes) -> Gather:
    gather = Gather()
    for piece in pieces:
        gather.add(piece, 0, len(piece))
    return gather


# ---- gathers -----------------------------------------------------------------------------


def test_pieces_of_buffers_are_written_in_order(root: Root) -> None:
    part = root.part(b"header")
    buffer = bytearray(b"0123456789")
    gather = Gather()
    gather.add(buffer, 2, 5)
    gather.add(b"other", 0, 5)
    gather.add(buffer, 0, 1)
    assert len(gather) == gather.size == 9
    part.write(gather)
    assert len(gather) == 0
    gather.add(buffer, 9, 10)
    assert root.place(part, gather)
    assert root.final.read_bytes() == b"header" + b"234" + b"other" + b"0" + b"9"
    assert list(root.temporary.iterdir()) == []


@pytest.mark.parametrize("count", [255, 256, 257, 511, 512, 513, 3000])
def test_more_pieces_than_one_writev_takes_are_written(root: Root, count: int) -> None:
    buffer = bytearray(random.Random(count).randbytes(3 * count))
    gather = Gather()
    for i in range(count):
        gather.add(buffer, 3 * i, 3 * i + 2)
    assert gather.size == 2 * count
    assert root.place(root.part(b"h"), gather)
    expected = b"".join(bytes(buffer[3 * i : 3 * i + 2]) for i in range(count))
    assert root.final.read_bytes() == b"h" + expected


@pytest.mark.parametrize("count", [7, 8, 9, 17, 600])
def test_more_buffers_than_one_gather_holds_are_written(root: Root, count: int) -> None:
    buffers = [bytearray([i % 256]) * (i % 5) for i in range(count)]
    gather = gathered(*buffers)  # type: ignore[arg-type]
    assert root.place(root.part(), gather)
    assert root.final.read_bytes() == b"".join(buffers)


def test_empty_pieces_are_skipped(root: Root) -> None:
    gather = gathered(*[b""] * 700, b"x", *[b""] * 300)
    assert gather.size == 1
    assert root.place(root.part(), gather)
    assert root.final.read_bytes() == b"x"


def test_a_detached_gather_does_not_need_its_buffer(root: Root) -> None:
    buffer = bytearray(b"old")
    gather = Gather()
    gather.add(buffer, 0, 2)
    gather.add(buffer, 2, 3)
    with pytest.raises(BufferError):
        buffer.clear()  # held
    gather.detach()
    buffer.clear()
    assert gather.size == 3
    assert root.place(root.part(), gather)
    assert root.final.read_bytes() == b"old"


@pytest.mark.parametrize(("start", "stop"), [(-1, 1), (0, 4), (2, 1), (4, 4), (0, 2**62)])
def test_a_range_outside_the_buffer_is_an_error(start: int, stop: int) -> None:
    gather = Gather()
    with pytest.raises(ValueError, match="range"):
        gather.add(b"abc", start, stop)
    assert gather.size == 0


def test_only_bytes_are_gathered() -> None:
    gather = Gather()
    with pytest.raises(TypeError):
        gather.add("text", 0, 1)  # type: ignore[arg-type]
    gather.add(b"abc", 0, 3)
    assert gather.size == 3


def test_a_cleared_or_deleted_gather_releases_its_buffers() -> None:
    buffer = bytearray(b"abc")
    gather = Gather()
    gather.add(buffer, 0, 3)
    gather.clear()
    buffer.clear()
    buffer.extend(b"abc")
    gather.add(buffer, 0, 3)
    del gather
    buffer.clear()


# ---- complete files -------------------------------------------------------------------------


def test_nothing_is_created_before_the_first_write(root: Root) -> None:
    root.part(b"header")
    assert list(root.temporary.iterdir()) == []


def test_an_empty_data_set_makes_a_file_of_the_header(root: Root) -> None:
    assert root.place(root.part(b"header"))
    assert root.final.read_bytes() == b"header"


def test_a_file_may_be_empty(root: Root) -> None:
    assert root.place(root.part())
    assert root.final.read_bytes() == b""


def test_many_writes_make_one_file(root: Root) -> None:
    part = root.part(b"h")
    block = random.Random(1).randbytes(100_000)
    for _ in range(20):
        part.write(gathered(block))
    assert [each.name for each in root.temporary.iterdir()] == ["a.part"]
    assert not root.final.exists()
    assert root.place(part, gathered(b"end"))
    assert root.final.read_bytes() == b"h" + block * 20 + b"end"
    assert root.final.stat().st_mode & 0o777 == 0o644


def test_a_file_of_that_name_is_replaced(root: Root) -> None:
    root.final.write_bytes(b"old")
    assert root.place(root.part(), gathered(b"new"))
    assert root.final.read_bytes() == b"new"


@pytest.mark.parametrize("sync", [False, True])
def test_placing_returns_false_where_the_folder_is_missing(root: Root, sync: bool) -> None:
    root.folder.rmdir()
    part = root.part(b"h")
    gather = gathered(b"data")
    assert not root.place(part, gather, sync=sync)
    root.folder.mkdir()
    assert root.place(part, gather, sync=sync)
    assert root.final.read_bytes() == b"hdata"


def test_a_write_can_be_repeated_after_the_temporary_folder_was_made_again(root: Root) -> None:
    root.temporary.rmdir()
    part = root.part(b"h")
    gather = gathered(b"data")
    with pytest.raises(FileNotFoundError):
        part.write(gather)
    root.temporary.mkdir()
    fd = os.open(root.temporary, os.O_RDONLY)
    os.dup2(fd, root.temporary_fd)
    os.close(fd)
    part.write(gather)
    assert root.place(part)
    assert root.final.read_bytes() == b"hdata"


def test_a_placed_file_cannot_be_written_or_discarded(root: Root) -> None:
    part = root.part()
    assert root.place(part, gathered(b"data"))
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        part.write(gathered(b"x"))
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        root.place(part)
    part.discard()
    del part
    assert root.final.read_bytes() == b"data"


# ---- files outside of the root -----------------------------------------------------------


@pytest.mark.parametrize("depth", range(6))
@pytest.mark.parametrize("target", ["outside", "inside", "dangling"])
def test_no_link_below_the_root_is_followed(
    root: Root, tmp_path_factory: pytest.TempPathFactory, depth: int, target: str
) -> None:
    """A link is tried in the place of each component."""
    outside = tmp_path_factory.mktemp("outside")
    planted = root.path.joinpath(*os.fsdecode(FOLDER).split("/")[: depth + 1])
    rest = root.folder.relative_to(planted)
    moved = {
        "outside": outside / "target",
        "inside": root.path / "target",
        "dangling": root.path / "nothing",
    }[target]
    if target == "dangling":
        subprocess.run(["rm", "-r", planted], check=True)
    else:
        planted.rename(moved)
    planted.symlink_to(moved)
    part = root.part()
    with pytest.raises(OSError) as caught:  # noqa: PT011
        root.place(part, gathered(b"secret"))
    assert caught.value.errno in (errno.ELOOP, errno.ENOTDIR)
    assert not (moved / rest / os.fsdecode(FINAL)).exists()
    planted.unlink()
    if target != "dangling":
        moved.rename(planted)
        assert root.place(part), "the failure is not permanent"
        assert root.final.read_bytes() == b"secret"


def test_a_link_as_final_name_is_replaced_and_not_followed(root: Root) -> None:
    victim = root.path / "victim"
    victim.write_bytes(b"mine")
    root.final.symlink_to(victim)
    assert root.place(root.part(), gathered(b"data"))
    assert victim.read_bytes() == b"mine"
    assert not root.final.is_symlink()
    assert root.final.read_bytes() == b"data"


def test_a_link_as_temporary_name_is_not_followed(root: Root) -> None:
    victim = root.path / "victim"
    victim.write_bytes(b"mine")
    (root.temporary / "a.part").symlink_to(victim)
    part = root.part()
    with pytest.raises(FileExistsError):
        part.write(gathered(b"data"))
    del part
    assert victim.read_bytes() == b"mine"
    assert (root.temporary / "a.part").is_symlink(), "a file of another program was removed"


def test_a_folder_of_the_final_name_or_a_file_in_the_path_is_an_error(root: Root) -> None:
    root.final.mkdir()
    part = root.part()
    with pytest.raises(IsADirectoryError):
        root.place(part, gathered(b"data"))
    root.final.rmdir()
    root.folder.rmdir()
    root.folder.write_bytes(b"a file")
    with pytest.raises(NotADirectoryError):
        root.place(part)
    part.discard()
    assert list(root.temporary.iterdir()) == []


def test_a_name_that_is_a_path_is_an_error(root: Root) -> None:
    part = root.part()
    part.write(gathered(b"data"))
    for name in (b"", b".", b"..", b"../x", b"a/b", b"a\0b"):
        with pytest.raises(ValueError):  # noqa: PT011
            root.place(part, name=name)
        with pytest.raises(ValueError):  # noqa: PT011
            root.part(name=name)
    with pytest.raises(ValueError, match="NUL"):
        part.place(Gather(), root.fd, b"SERVICES\0/x", FINAL)
    with pytest.raises(OSError):  # noqa: PT011
        part.place(Gather(), root.fd, b"../x", FINAL)
    too_long = b"n" * 256
    with pytest.raises(OSError, match=os.strerror(errno.ENAMETOOLONG)):
        part.place(Gather(), root.fd, b"SERVICES/" + too_long, FINAL)
    with pytest.raises(OSError, match=os.strerror(errno.ENAMETOOLONG)):
        root.place(part, name=too_long)
    part.discard()


def test_errors_have_no_file_name(root: Root) -> None:
    (root.temporary / "a.part").touch()
    with pytest.raises(FileExistsError) as caught:
        root.part().write(gathered(b"x"))
    assert caught.value.filename is None
    assert "part" not in str(caught.value)


# ---- failures ----------------------------------------------------------------------------


@pytest.fixture
def small_files() -> Iterator[int]:
    """Limit files to this many bytes: a write beyond is short, then fails with EFBIG."""
    limit = 100_000
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    action = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, action)


def test_after_a_failed_write_a_file_is_never_placed(root: Root, small_files: int) -> None:
    part = root.part(b"h")
    part.write(gathered(b"first"))
    with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
        part.write(gathered(bytes(60_000), bytes(60_000)))
    with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
        part.write(gathered(b"more"))
    with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
        root.place(part, gathered(b"more"))
    with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
        root.place(part)
    assert not root.final.exists()
    part.discard()
    assert list(root.temporary.iterdir()) == []


def test_placing_with_a_failed_write_leaves_no_file(root: Root, small_files: int) -> None:
    part = root.part()
    with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
        root.place(part, gathered(bytes(small_files + 1)))
    with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
        root.place(part)
    del part
    assert not root.final.exists()
    assert list(root.temporary.iterdir()) == []


def test_short_writes_are_continued(root: Root) -> None:
    """A pipe takes what fits, so that each writev ends within a piece."""
    fifo = root.temporary / "a.part"
    read_fd, write_fd = os.pipe()
    os.set_blocking(read_fd, True)
    pieces = [random.Random(i).randbytes(997 * (i % 7) + 1) for i in range(250)]
    program = (
        "import os, sys, time\n"
        "data = b''\n"
        "while block := os.read(0, 1777):\n"
        "    data += block\n"
        "sys.stdout.buffer.write(data)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=read_fd, stdout=subprocess.PIPE
    ) as reader:
        os.close(read_fd)
        part = root.part(b"header")
        part.write(Gather())  # creates the file…
        file_fd = max(
            int(fd)
            for fd in os.listdir("/proc/self/fd")
            if os.path.exists(f"/proc/self/fd/{fd}")
            and os.path.realpath(f"/proc/self/fd/{fd}") == str(fifo.resolve())
        )
        os.dup2(write_fd, file_fd)  # …which is a pipe from here on
        os.close(write_fd)
        # A signal handler that is run often cuts blocking writes short.
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        action = signal.signal(signal.SIGALRM, lambda number, frame: None)
        try:
            part.write(gathered(*pieces))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, action)
        part.discard()
        assert reader.stdout is not None
        assert reader.stdout.read() == b"".join(pieces)


def test_a_discarded_or_deleted_part_file_is_removed(root: Root) -> None:
    for drop in ("discard", "dealloc"):
        for writes in range(3):
            part = root.part(b"h")
            for _ in range(writes):
                part.write(gathered(b"data"))
            if drop == "discard":
                part.discard()
                part.discard()
                with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
                    part.write(gathered(b"data"))
                with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
                    root.place(part)
            del part
            assert list(root.temporary.iterdir()) == []


def test_part_files_leak_no_descriptors(root: Root) -> None:
    before = descriptors()
    for number in range(200):
        part = root.part(name=b"%d.part" % number)
        part.write(gathered(b"data"))
        assert descriptors() == before + 1
        if number % 2:
            assert root.place(part)
        else:
            too_long = FOLDER + b"/" + b"n" * 256
            with pytest.raises(OSError, match=os.strerror(errno.ENAMETOOLONG)):
                part.place(Gather(), root.fd, too_long, FINAL)
            part.discard()
        assert descriptors() == before


def test_without_free_descriptors_writing_and_placing_fail(root: Root) -> None:
    """EMFILE when the file is created, then when the folder is opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    part, written = root.part(), root.part(name=b"b.part")
    written.write(gathered(b"data"))
    highest = max(map(int, os.listdir("/proc/self/fd")))
    fillers = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
    try:
        while True:
            try:
                fillers.append(os.dup(0))
            except OSError:
                break
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            part.write(gathered(b"data"))
        assert fillers or root.final.exists() is False
        # Its own descriptor becomes free when it is closed, and another thread takes it.
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            root.place(written)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in fillers:
            os.close(fd)
    assert not root.final.exists()
    with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
        root.place(part, gathered(b"later"))
    assert root.place(written), "its contents are complete"
    assert root.final.read_bytes() == b"data"


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Root]:
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system takes root")
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount")
    try:
        root = Root(folder)
        yield root
        root.close()
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_an_error_and_leaves_no_file(full_disk: Root) -> None:
    part = full_disk.part(b"h")
    part.write(gathered(bytes(700_000)))
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        part.write(gathered(bytes(700_000)))
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        full_disk.place(part)
    assert not full_disk.final.exists()
    part.discard()
    assert full_disk.place(full_disk.part(b"h", b"b.part"), gathered(bytes(700_000)))
    assert full_disk.final.stat().st_size == 700_001


def test_many_threads_share_the_syncs_of_a_folder_that_is_made_again(root: Root) -> None:
    """All calls return, and each placed file is in one folder or the other."""
    shared = FolderSync()
    files, threads = 40, 8
    half = threading.Barrier(threads + 1)

    def place(thread: int) -> list[bytes]:
        placed = []
        for number in range(files):
            if number == files // 2:
                half.wait(30)
            name = b"%d-%d.dcm" % (thread, number)
            part = root.part(b"h", name)
            gather = gathered(name)
            while not part.place(gather, root.fd, FOLDER, name, shared):
                root.folder.mkdir(exist_ok=True)
            placed.append(name)
        return placed

    moved = root.path / "moved"
    with ThreadPoolExecutor(threads) as pool:
        placing = [pool.submit(place, thread) for thread in range(threads)]
        half.wait(30)
        root.folder.rename(moved)
        names = [name for each in placing for name in each.result(60)]
    there = {*os.listdir(root.folder), *os.listdir(moved)}
    assert there == {os.fsdecode(name) for name in names}
    assert len(there) == threads * files


# ---- time and file systems ---------------------------------------------------------------


def test_the_longest_storage_calls_are_measured(root: Root) -> None:
    part = root.part()
    assert part.slowest_ns == 0
    part.write(gathered(bytes(1_000_000)))
    first = part.slowest_ns
    assert 0 < first < 10_000_000_000
    part.write(gathered(b"x"))
    assert part.slowest_ns == first
    part.slowest_ns = 0
    assert root.place(part)
    assert part.slowest_ns > 0


def test_the_magic_number_of_a_file_system(tmp_path: Path) -> None:
    fd = os.open("/proc", os.O_RDONLY)
    try:
        assert filesystem_type(fd) == 0x9FA0
    finally:
        os.close(fd)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        filesystem_type(fd)
