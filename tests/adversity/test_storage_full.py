"""A full files root: instances are refused with 0xA700 until there is space (decision 21)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.data import Instance
from tests.support.mounts import Ballast, small_file_system
from tests.support.raw_peer import EXPLICIT, RawPeer, c_store_rq, p_data, pdv
from tests.support.receiver import Receiver, wait_until
from tests.support.storing import OUT_OF_RESOURCES, assert_refused, store

Full = tuple[Receiver, Ballast]


@pytest.fixture(params=["inline", "threads", "fsync"])
def full(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Full]:
    """A receiver with a files root of 16 MiB, and the ballast that fills it."""
    with (
        small_file_system(tmp_path / "files", 16) as root,
        Receiver(
            root,
            OXIDICOM_WRITE_MODE="threads" if request.param == "threads" else "inline",
            OXIDICOM_FSYNC=str(request.param == "fsync"),
        ) as receiver,
    ):
        yield receiver, Ballast(root)


def halves(instance: Instance) -> tuple[bytes, bytes]:
    """Return the halves of a C-STORE-RQ with its data set, in PDUs of 64 KiB."""
    data_set = instance.encode(EXPLICIT)
    command = c_store_rq(instance.sop_class, instance.sop_instance)
    pdus = [p_data(pdv(1, command, command=True, last=True))]
    for start in range(0, len(data_set), 1 << 16):
        fragment = data_set[start : start + (1 << 16)]
        last = start + (1 << 16) >= len(data_set)
        pdus.append(p_data(pdv(1, fragment, command=False, last=last)))
    half = len(pdus) // 2
    return b"".join(pdus[:half]), b"".join(pdus[half:])


def test_the_disk_is_full_in_the_middle_of_an_instance(full: Full) -> None:
    receiver, ballast = full
    small, large = Instance(), Instance(pixels=4_000_000)
    with RawPeer(receiver.port) as peer:
        peer.associate()
        assert store(peer, small).status == 0
        first, rest = halves(large)
        peer.send(first)
        wait_until(lambda: bool(receiver.leftovers()), "part of it on disk")
        ballast.fill()
        peer.send(rest)
        assert_refused(peer.response(), OUT_OF_RESOURCES)
        assert receiver.files() == [receiver.path_of(small.sop_instance)]
        wait_until(lambda: not receiver.leftovers(), "the half of it removed")
        again = Instance(series=small.series, number=2, pixels=4_000_000)
        assert_refused(store(peer, again), OUT_OF_RESOURCES)
        peer.echo()
        ballast.drop()
        for instance in (large, again):
            assert store(peer, instance).status == 0
            assert receiver.data_set_of(instance.sop_instance) == instance.encode(EXPLICIT)
        peer.release()
    counts = {
        entry["series"]["series_instance_uid"]: entry["ndicom"]
        for entry in receiver.wait_for_outbox(2)
    }
    assert counts == {small.series: 2, large.series: 1}
    wait_until(lambda: not receiver.leftovers(), "nothing left behind")


def test_a_series_begins_when_the_disk_is_full(full: Full) -> None:
    """There is no space for its journal entry, without which no instance may be acknowledged."""
    receiver, ballast = full
    instance = Instance()
    with RawPeer(receiver.port) as peer:
        peer.associate()
        ballast.fill()
        for _ in range(3):
            assert_refused(store(peer, instance), OUT_OF_RESOURCES)
        assert receiver.files() == []
        ballast.drop()
        assert store(peer, instance).status == 0
        peer.release()
    assert receiver.wait_for_registration(instance.series)["ndicom"] == 1
    wait_until(lambda: not receiver.leftovers(), "nothing left behind")


def test_a_series_ends_when_the_disk_is_full(full: Full) -> None:
    """Its registration is written as soon as there is space."""
    receiver, ballast = full
    instance = Instance()
    with RawPeer(receiver.port) as peer:
        peer.associate()
        assert store(peer, instance).status == 0
        ballast.fill()
        peer.release()
        receiver.wait_for_log("association released")
        wait_until(lambda: "outbox unusable" in str(receiver.log()), "it to fail")
        assert receiver.outbox() == []
        assert list((receiver.state / "journal").iterdir()) != [], (
            "it is needed until the registration is written"
        )
    with RawPeer(receiver.port) as other:
        other.associate()
        other.echo()
        other.release()
    ballast.drop()
    assert receiver.wait_for_registration(instance.series)["ndicom"] == 1
    wait_until(lambda: not list((receiver.state / "journal").iterdir()), "an empty journal")
    wait_until(lambda: not receiver.leftovers(), "nothing left behind")
