"""The floor is a correct receiver, and the benchmark's senders send as they should."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pydicom
import pytest

from benchmarks.association import Association, IdleAssociations, SendError
from benchmarks.encoding import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    associate_rq,
)
from benchmarks.instances import Series, encode_series, sop_instance_uid
from benchmarks.processes import Running, free_port
from benchmarks.receivers import Place, floor
from benchmarks.rows import other_contexts
from benchmarks.sender import HOPELESS, Senders, Work
from benchmarks.timetable import Timetable
from tests.support.timing import BUSY_MACHINE_S

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")

SIZE = 100_000

# A file system that takes a seventh of what it is given, rounded up.
PARTIAL_WRITES = """
#include <sys/uio.h>
#include <unistd.h>
ssize_t writev(int fd, const struct iovec *pieces, int count)
{
    (void)count;
    return write(fd, pieces->iov_base, (pieces->iov_len + 6) / 7);
}
"""


class Floor:
    def __init__(self, program: list[str], folder: Path, preload: Path | None = None) -> None:
        self.folder = folder
        self.port = free_port()
        environment = {"LD_PRELOAD": str(preload)} if preload else {}
        command = [*program, str(self.port), str(folder), "16384"]
        self.running = Running(command, environment, self.port, folder.with_suffix(".log"))

    def stored(self, number: int, series: int = 1) -> pydicom.Dataset:
        return pydicom.dcmread(self.folder / f"{sop_instance_uid(series, number)}.dcm")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    work = tmp_path_factory.mktemp("floor")
    receiver = floor(work)
    assert receiver
    return receiver.command(Place(0, work, work, 0, False))[:1]


@pytest.fixture
def receiver(program: list[str], tmp_path: Path) -> Iterator[Floor]:
    folder = tmp_path / "stored"
    folder.mkdir()
    this = Floor(program, folder)
    with this.running:
        yield this


def send(receiver: Floor, syntax: str, nagle: bool = False, size: int = SIZE) -> Series:
    request = associate_rq("ChRIS", "BENCHMARK", syntax, other_contexts(127))
    with Association(receiver.port, request, nagle) as association:
        series = encode_series(1, 3, size, association.max_length, syntax)
        for number in range(3):
            association.store(series, number)
    return series


@pytest.mark.parametrize("nagle", [False, True])
@pytest.mark.parametrize("syntax", [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN])
def test_files_are_what_was_sent(receiver: Floor, syntax: str, nagle: bool) -> None:
    send(receiver, syntax, nagle)
    assert len(list(receiver.folder.iterdir())) == 3
    for number in range(3):
        data_set = receiver.stored(number)
        uid = sop_instance_uid(1, number)
        meta = data_set.file_meta
        assert data_set.SOPInstanceUID == meta.MediaStorageSOPInstanceUID == uid
        assert meta.MediaStorageSOPClassUID == data_set.SOPClassUID
        assert meta.TransferSyntaxUID == syntax
        assert len(data_set.PixelData) > SIZE - 2000
        assert data_set.PixelData.strip(b"\x5a") == b""


def test_a_large_instance_is_sent_in_pieces(receiver: Floor) -> None:
    send(receiver, EXPLICIT_VR_LITTLE_ENDIAN, size=9_000_000)
    assert receiver.stored(2).PixelData.strip(b"\x5a") == b""


def test_partial_writes_are_continued(program: list[str], tmp_path: Path) -> None:
    source, library, folder = tmp_path / "partial.c", tmp_path / "partial.so", tmp_path / "stored"
    source.write_text(PARTIAL_WRITES)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    folder.mkdir()
    this = Floor(program, folder, preload=library)
    with this.running:
        send(this, EXPLICIT_VR_LITTLE_ENDIAN)
        assert this.stored(1).PixelData.strip(b"\x5a") == b""


def test_what_cannot_be_written_is_refused(receiver: Floor) -> None:
    receiver.folder.rmdir()
    with pytest.raises(SendError, match="status 0xa700"):
        send(receiver, EXPLICIT_VR_LITTLE_ENDIAN)


def test_a_name_outside_of_the_folder_ends_the_association(receiver: Floor) -> None:
    syntax = EXPLICIT_VR_LITTLE_ENDIAN
    request = associate_rq("ChRIS", "BENCHMARK", syntax)
    with Association(receiver.port, request) as association:
        series = encode_series(1, 1, SIZE, association.max_length, syntax)
        series.commands[0] = series.commands[0].replace(b"1.2.826.0.", b"../../0.0.")
        with pytest.raises((SendError, OSError)):
            association.store(series, 0)
    assert list(receiver.folder.iterdir()) == []


def test_idle_associations_are_open_beside_a_sender(receiver: Floor) -> None:
    with IdleAssociations(receiver.port, 50, EXPLICIT_VR_LITTLE_ENDIAN):
        task = Path(f"/proc/{receiver.running._process.pid}/task")
        assert len(os.listdir(task)) == 51
        send(receiver, EXPLICIT_VR_LITTLE_ENDIAN)
    assert len(list(receiver.folder.iterdir())) == 3


def test_every_instance_has_an_association_of_its_own(receiver: Floor) -> None:
    work = Work(1, 20, 4096, other_contexts=other_contexts(127), association_each=True)
    with Senders(receiver.port, [work]) as senders:
        load = senders.send()
    assert load.errors == []
    assert len(load.latencies) == len(list(receiver.folder.iterdir())) == 20


def test_a_sender_ends_when_its_time_is_over(receiver: Floor) -> None:
    with Senders(receiver.port, [Work(1, 20_000, 4096, seconds=0.1)]) as senders:
        load = senders.send()
    assert load.errors == []
    assert 0 < load.seconds < 0.1 + BUSY_MACHINE_S
    assert 0 < len(load.latencies) < 20_000
    assert len(list(receiver.folder.iterdir())) == len(load.latencies)


def test_an_open_loop_keeps_to_its_timetable(receiver: Floor) -> None:
    works = [
        Work(1 + n, 50, 4096, seconds=0.4, timetable=Timetable(n * 0.01, 0.02)) for n in range(2)
    ]
    with Senders(receiver.port, works) as senders:
        load = senders.send()
    assert load.errors == []
    assert len(load.latencies) == 40  # those that were due within the time
    assert load.seconds > 0.3  # 0.39 s, less what the first instance was late on a busy machine
    assert min(load.latencies) > 0


def test_latency_counts_from_when_an_instance_was_due(receiver: Floor) -> None:
    """All instances are due at the beginning, so each waits for all before it."""
    timetable = Timetable(0.0, 0.0)
    with Senders(receiver.port, [Work(1, 100, 4096, timetable=timetable)]) as senders:
        load = senders.send()
    assert load.latencies == sorted(load.latencies)
    assert load.latencies[-1] > load.seconds / 2, "nearly all of it"


def test_a_sender_that_is_hopelessly_late_gives_up(receiver: Floor) -> None:
    timetable = Timetable(-2 * HOPELESS, 0.0)
    with Senders(receiver.port, [Work(1, 100, 4096, timetable=timetable)]) as senders:
        load = senders.send()
    (error,) = load.errors
    assert error.startswith("after 0 instances: 10.")
    assert error.endswith(" s behind the timetable")


def test_cpu_time_of_the_receiver_is_counted(receiver: Floor) -> None:
    before = receiver.running.cpu_seconds()
    began = time.monotonic()
    with ExitStack() as stack:
        senders = stack.enter_context(Senders(receiver.port, [Work(1, 200, 1 << 20, seconds=0.5)]))
        senders.send()
        spent = receiver.running.cpu_seconds() - before
    assert 0 < spent <= 2 * (time.monotonic() - began)
    assert receiver.running.peak_resident_bytes() > 500_000
