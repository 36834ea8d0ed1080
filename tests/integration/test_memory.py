"""Memory does not grow with the size of an instance or the number of senders (promise 5)."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.data import PIXEL_DATA, Instance, element_header
from tests.support.raw_peer import EXPLICIT, RawPeer, c_echo_rq, c_store_rq, p_data, pdv
from tests.support.receiver import Receiver, data_set_offset, wait_until

SHARED_MEMORY = Path("/dev/shm")

LIMIT = 150 << 20
"""Greatest resident memory in bytes of all of the receiver's processes together."""

GIB = 1 << 30

RECORD = bytes(range(251)) * 522
"""The pixels of one PDV, less than the 131072 bytes of a PDU; the length is no power of two."""


@pytest.fixture
def root() -> Iterator[Path]:
    """Yield a folder in memory, so that the test measures the receiver and not the disk."""
    if not SHARED_MEMORY.is_dir() or shutil.disk_usage(SHARED_MEMORY).free < 4 * GIB:
        pytest.skip("needs 4 GiB free in /dev/shm")
    folder = Path(tempfile.mkdtemp(dir=SHARED_MEMORY, prefix="oxidicom-test-"))
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("write_mode", ["inline", "threads"])
def test_instance_of_2_gib(root: Path, write_mode: str) -> None:
    instance = Instance(pixels=0)
    count = 2 * GIB // len(RECORD) // 2 * 2
    head = instance.encode(EXPLICIT)[:-12]
    head += element_header(PIXEL_DATA, "OW", count * len(RECORD))
    record = p_data(pdv(1, RECORD, command=False, last=False))
    with Receiver(root, OXIDICOM_WRITE_MODE=write_mode) as receiver:
        with RawPeer(receiver.port, timeout=60) as peer:
            peer.associate()
            assert len(record) - 6 <= peer.peer_max_length
            command = c_store_rq(instance.sop_class, instance.sop_instance)
            peer.send(p_data(pdv(1, command, command=True, last=True)))
            peer.send(p_data(pdv(1, head, command=False, last=False)))
            eight = record * 8
            for _ in range((count - 1) // 8):
                peer.send(eight)
            for _ in range((count - 1) % 8):
                peer.send(record)
            peer.send(p_data(pdv(1, RECORD, command=False, last=True)))
            assert peer.response().status == 0
            peer.release()
        assert receiver.peak_memory() < LIMIT
        path = receiver.path_of(instance.sop_instance)
        assert path.stat().st_size == data_set_offset(path) + len(head) + count * len(RECORD)
        with path.open("rb") as file:
            file.seek(data_set_offset(path))
            assert file.read(len(head)) == head
            assert all(file.read(len(RECORD)) == RECORD for _ in range(count))


@pytest.mark.parametrize("write_mode", ["inline", "threads"])
def test_a_hundred_instances_in_flight(root: Path, write_mode: str) -> None:
    instances = [Instance(pixels=2_000_000) for _ in range(100)]
    with (
        Receiver(root, OXIDICOM_WRITE_MODE=write_mode) as receiver,
        contextlib.ExitStack() as stack,
    ):
        peers = [stack.enter_context(RawPeer(receiver.port, timeout=60)) for _ in instances]
        rests = []
        for peer, instance in zip(peers, instances, strict=True):
            peer.associate()
            data_set = instance.encode(EXPLICIT)
            command = c_store_rq(instance.sop_class, instance.sop_instance)
            peer.send(p_data(pdv(1, command, command=True, last=True)))
            half = len(data_set) // 2
            for start in range(0, half, 100_000):
                fragment = data_set[start : min(start + 100_000, half)]
                peer.send(p_data(pdv(1, fragment, command=False, last=False)))
            rests.append(data_set[half:])
        assert receiver.files() == [], "half a file is never where CUBE looks"
        for peer, rest in zip(peers, rests, strict=True):
            for start in range(0, len(rest), 100_000):
                last = start + 100_000 >= len(rest)
                fragment = rest[start : start + 100_000]
                peer.send(p_data(pdv(1, fragment, command=False, last=last)))
        for peer in peers:
            assert peer.response().status == 0
            peer.release()
        assert receiver.peak_memory() < LIMIT
        for instance in instances:
            assert receiver.data_set_of(instance.sop_instance) == instance.encode(EXPLICIT)


def test_associations_leave_nothing_behind(root: Path) -> None:
    with Receiver(root) as receiver:

        def some() -> None:
            for _ in range(100):
                instance = Instance(pixels=50_000)
                with RawPeer(receiver.port) as peer:
                    peer.associate()
                    peer.store(instance.sop_instance, instance.encode(EXPLICIT))
                    peer.release()

        some()
        files, memory = receiver.open_files(), receiver.peak_memory()
        some()
        # The last few connections may not have been closed yet.
        wait_until(lambda: receiver.open_files() <= files + 2, "connections closed")
        assert receiver.peak_memory() - memory < 8 << 20


def test_peer_that_never_reads(root: Path) -> None:
    echoes = p_data(pdv(3, c_echo_rq(), command=True, last=True)) * 500_000
    with Receiver(root) as receiver, RawPeer(receiver.port, timeout=1) as deaf:
        deaf.associate()
        before = receiver.peak_memory()
        with pytest.raises(TimeoutError):
            deaf.send(echoes)
        assert receiver.peak_memory() - before < 16 << 20, "we stop reading from it"
        with RawPeer(receiver.port) as other:
            other.associate()
            other.echo()
            other.release()
        deaf.close()
