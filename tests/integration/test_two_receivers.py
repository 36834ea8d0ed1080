"""Two receivers on one files root and one state folder (promise 4)."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from oxidicom.series.leases import LEASE_LIFETIME_S
from tests.support.data import Instance
from tests.support.raw_peer import EXPLICIT, RawPeer
from tests.support.receiver import Receiver


@pytest.fixture(params=["1", "2"], ids=["1 worker", "2 workers"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Receiver, Receiver]:
    """Two receivers that are not started yet."""
    one, other = (
        Receiver(tmp_path, OXIDICOM_INCOMPLETE_SETTLE="0s", OXIDICOM_WORKERS=request.param)
        for _ in range(2)
    )
    return one, other


def store(peer: RawPeer, instance: Instance) -> None:
    assert peer.store(instance.sop_instance, instance.encode(EXPLICIT)).status == 0


def test_a_start_leaves_series_of_a_living_receiver_alone(pair: tuple[Receiver, Receiver]) -> None:
    one, other = pair
    series = Instance().series
    with one, RawPeer(one.port) as peer:
        peer.associate()
        store(peer, Instance(series=series, number=1))
        with other, RawPeer(other.port) as their_peer:
            their_peer.associate()
            theirs = Instance()
            store(their_peer, theirs)
            their_peer.release()
            assert other.wait_for_registration(theirs.series)["ndicom"] == 1
            assert other.log("open series recovered from the journal") == []
            store(peer, Instance(series=series, number=2))
            peer.release()
            assert one.wait_for_registration(series)["ndicom"] == 2
        assert [each["SeriesInstanceUID"] for each in other.log("series complete")] == [
            theirs.series
        ]
        assert len(one.log("series complete")) == 1
    assert os.listdir(one.state / "receivers") == []


def test_series_of_a_dead_receiver_are_taken_over(pair: tuple[Receiver, Receiver]) -> None:
    one, other = pair
    instance = Instance()
    with ExitStack() as stack:
        stack.callback(one.kill)
        one.start()
        stack.enter_context(other)
        peer = stack.enter_context(RawPeer(one.port))
        peer.associate()
        store(peer, instance)
        (dead,) = (
            entry.read_text().split('"writer":"')[1].split('"')[0].partition("/")[0]
            for entry in (one.state / "journal").glob("*.json")
        )
        one.kill()
        taken_over = other.wait_for_log("series taken over from a dead receiver", 20)
        assert taken_over["series"] == 1
        assert other.wait_for_registration(instance.series)["ndicom"] == 1
        (successor,) = (name for name in os.listdir(other.state / "receivers") if "@" not in name)
        assert len(os.listdir(other.state / "receivers")) == 2, "that of the dead receiver and ours"
        assert os.path.exists(other.state / "receivers" / f"{dead}@{successor}")
    assert os.listdir(other.state / "receivers") == []


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_series_that_was_taken_over_continues_in_its_folder(tmp_path: Path, workers: str) -> None:
    """Although later instances have other values (decision 26)."""
    one, other = (
        Receiver(tmp_path, OXIDICOM_INCOMPLETE_SETTLE="1h", OXIDICOM_WORKERS=workers)
        for _ in range(2)
    )
    first = Instance(number=1, SeriesDescription="before")
    with ExitStack() as stack:
        stack.callback(one.kill)
        one.start()
        stack.enter_context(other)
        with RawPeer(one.port) as peer:
            peer.associate()
            store(peer, first)
            one.kill()
        other.wait_for_log("series taken over from a dead receiver", 20)
        with RawPeer(other.port) as peer:
            peer.associate()
            store(peer, Instance(series=first.series, number=2, SeriesDescription="after"))
            peer.release()
        assert len({path.parent for path in other.files()}) == 1
        other.stop()
        assert [each["ndicom"] for each in other.outbox()] == [2]


def test_series_of_a_dead_successor_are_taken_over(tmp_path: Path) -> None:
    """Those that it had taken over, too; a start in between leaves them alone."""
    first = Receiver(tmp_path, OXIDICOM_INCOMPLETE_SETTLE="0s")
    successor = Receiver(tmp_path, OXIDICOM_INCOMPLETE_SETTLE="1h")
    other = Receiver(tmp_path, OXIDICOM_INCOMPLETE_SETTLE="0s")
    instance = Instance()
    with ExitStack() as stack:
        stack.callback(first.kill)
        stack.callback(successor.kill)
        with first, RawPeer(first.port) as peer:
            peer.associate()
            store(peer, instance)
            first.kill()
        successor.start()
        assert successor.log("open series recovered from the journal")
        stack.enter_context(other)
        assert other.log("open series recovered from the journal") == []
        successor.kill()
        taken_over = other.wait_for_log("series taken over from a dead receiver", 20)
        assert taken_over["series"] == 1
        assert other.wait_for_registration(instance.series)["ndicom"] == 1
    assert os.listdir(other.state / "receivers") == []


def test_a_receiver_of_another_host_is_dead_once_its_lease_is_old(tmp_path: Path) -> None:
    """Until then its journal entries are left alone."""
    receiver = Receiver(tmp_path, OXIDICOM_INCOMPLETE_SETTLE="0s")
    instance = Instance()
    with receiver, RawPeer(receiver.port) as peer:
        peer.associate()
        store(peer, instance)
        receiver.kill()
        (lease,) = (receiver.state / "receivers").iterdir()
        (entry,) = (receiver.state / "journal").glob("*.json")
        elsewhere = lease.rename(lease.with_name(f"other{lease.name}"))
        entry.write_text(entry.read_text().replace(lease.name, elsewhere.name))
        receiver.start()
        assert receiver.log("open series recovered from the journal") == []
        long_ago = elsewhere.stat().st_mtime - 2 * LEASE_LIFETIME_S
        os.utime(elsewhere, (long_ago, long_ago))
        receiver.wait_for_log("series taken over from a dead receiver", 20)
        assert receiver.wait_for_registration(instance.series)["ndicom"] == 1
