"""Leases of the receivers that share a state folder, and the takeover of those of dead ones."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from oxidicom.series.leases import LEASE_LIFETIME_S, ReceiverLeases


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "receivers"


@pytest.fixture
def leases(folder: Path) -> ReceiverLeases:
    """The leases as a receiver sees them that has renewed its own in time."""
    leases = ReceiverLeases(folder)
    leases.acquire()
    assert leases.renew()
    return leases


def lease_of_another_host(folder: Path, leases: ReceiverLeases, age: float) -> str:
    """Create the lease of a receiver of another host, renewed `age` seconds ago."""
    name = "other" + leases.name
    (folder / name).touch()
    renewed = os.stat(folder / leases.name).st_mtime - age
    os.utime(folder / name, (renewed, renewed))
    return name


def test_a_receiver_of_this_host_is_alive_as_long_as_its_process(
    folder: Path, leases: ReceiverLeases
) -> None:
    program = (
        "import sys; from pathlib import Path; from oxidicom.series.leases import ReceiverLeases\n"
        f"leases = ReceiverLeases(Path({str(folder)!r}))\n"
        "leases.acquire(); print(leases.name, flush=True)\n"
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        assert leases.is_alive(name)
        assert leases.take_over_dead() == []
        (folder / name).unlink()
        assert leases.is_alive(name), "its file was removed, and its next renewal makes it again"
        (folder / name).touch()
        process.kill()
    assert not leases.is_alive(name)
    assert leases.take_over_dead() == [name]


def test_a_receiver_of_another_host_is_alive_as_long_as_its_lease_is_renewed(
    folder: Path, leases: ReceiverLeases
) -> None:
    name = lease_of_another_host(folder, leases, LEASE_LIFETIME_S - 5)
    assert leases.is_alive(name)
    name = lease_of_another_host(folder, leases, LEASE_LIFETIME_S + 5)
    assert not leases.is_alive(name)
    assert leases.take_over_dead() == [name]
    assert not (folder / name).exists()
    assert not leases.is_alive(name)


def test_before_its_first_renewal_a_receiver_takes_none_of_another_host_for_dead(
    folder: Path, leases: ReceiverLeases
) -> None:
    """Storage may have hung for all receivers until this one started."""
    name = lease_of_another_host(folder, leases, 2 * LEASE_LIFETIME_S)
    late = ReceiverLeases(folder)
    late.acquire()
    assert late.is_alive(name)
    assert late.take_over_dead() == []
    assert late.renew()
    assert late.take_over_dead() == [name]


def test_similar_host_names_are_two_hosts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "ct-1")
    leases = ReceiverLeases(folder)
    leases.acquire()
    dead = leases.name.replace(f"-{os.getpid()}-", "-999999999-")
    assert dead.startswith("ct+1-")
    (folder / dead).touch()
    assert not leases.is_alive(dead)
    other = dead.replace("ct+1-", "ct_1-")
    (folder / other).touch()
    assert leases.is_alive(other)


def test_another_pid_namespace_counts_as_another_host(folder: Path, leases: ReceiverLeases) -> None:
    """A process number there names another process here, or none."""
    name = f"{leases.name[:-1]}{(int(leases.name[-1]) + 1) % 10}".replace(
        f"-{os.getpid()}-", "-999999999-"
    )
    assert not leases.is_alive(name)
    (folder / name).touch()
    assert leases.is_alive(name)


def test_the_age_of_a_lease_is_compared_with_the_own_latest_renewal(
    folder: Path, leases: ReceiverLeases
) -> None:
    name = lease_of_another_host(folder, leases, 0)
    before = time.time() - 2 * LEASE_LIFETIME_S
    os.utime(folder / name, (before, before))
    os.utime(folder / leases.name, (before, before))
    assert leases.is_alive(name), "the clock of the file system may differ from this host's"
    leases.renew()
    assert leases.is_alive(name), "the storage may have hung for both"
    leases.renew()
    assert not leases.is_alive(name)


def test_renewing_tells_whether_the_renewal_before_was_recent(
    folder: Path, leases: ReceiverLeases
) -> None:
    assert leases.renew()
    long_ago = time.time() - LEASE_LIFETIME_S
    os.utime(folder / leases.name, (long_ago, long_ago))
    assert not leases.renew()
    assert leases.renew()
    (folder / leases.name).unlink()
    assert not leases.renew()


def test_a_released_lease_is_acquired_again_by_renewing(
    folder: Path, leases: ReceiverLeases
) -> None:
    leases.release()
    leases.release()
    assert os.listdir(folder) == []
    leases.renew()
    assert os.listdir(folder) == [leases.name]


def test_a_dead_receiver_has_one_successor(folder: Path, leases: ReceiverLeases) -> None:
    name = lease_of_another_host(folder, leases, 2 * LEASE_LIFETIME_S)
    other = ReceiverLeases(folder)
    other.acquire()
    other.renew()
    assert other.take_over_dead() == [name]
    assert leases.take_over_dead() == []
    assert leases.successors() == {name: other.name}
    other.release()
    assert os.listdir(folder) == [leases.name]


def test_a_successor_that_dies_has_a_successor(folder: Path, leases: ReceiverLeases) -> None:
    successor = lease_of_another_host(folder, leases, 2 * LEASE_LIFETIME_S)
    dead = "yet" + successor
    (folder / f"{dead}@{successor}").touch()
    assert sorted(leases.take_over_dead()) == sorted([dead, successor])
    assert leases.take_over_dead() == []
    assert leases.successors() == {dead: leases.name, successor: leases.name}


def test_a_living_receiver_that_was_taken_for_dead_keeps_its_series(
    folder: Path, leases: ReceiverLeases
) -> None:
    alive = lease_of_another_host(folder, leases, 0)
    (folder / f"{alive}@dead{leases.name}").touch()
    assert leases.take_over_dead() == []


@pytest.mark.parametrize("name", ["", "01M8A9337E7S9WXZPYKZ58W81B", "notes.txt"])
def test_a_name_that_no_receiver_has_is_not_alive(leases: ReceiverLeases, name: str) -> None:
    """Journal entries of versions without leases have such writers."""
    assert not leases.is_alive(name)
