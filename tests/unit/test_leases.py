"""Who uses a state folder, and who has died without saying so."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from oxidicom.series.leases import PATIENCE, ReceiverLeases


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "receivers"


@pytest.fixture
def roll(folder: Path) -> ReceiverLeases:
    """Of a receiver that has run for a while."""
    roll = ReceiverLeases(folder)
    roll.sign_on()
    assert roll.beat()
    return roll


def elsewhere(folder: Path, roll: ReceiverLeases, silent_for: float) -> str:
    """A receiver of another host, that touched its file so long ago."""
    name = "other" + roll.name
    (folder / name).touch()
    latest = os.stat(folder / roll.name).st_mtime - silent_for
    os.utime(folder / name, (latest, latest))
    return name


def test_of_this_machine_a_process_tells_by_itself(folder: Path, roll: ReceiverLeases) -> None:
    program = (
        "import sys; from pathlib import Path; from oxidicom.series.leases import ReceiverLeases\n"
        f"leases = ReceiverLeases(Path({str(folder)!r}))\n"
        "leases.sign_on(); print(leases.name, flush=True)\n"
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
        assert roll.lives(name)
        assert roll.take_over_dead() == []
        (folder / name).unlink()
        assert roll.lives(name), "somebody cleaned up, and it will sign on again"
        (folder / name).touch()
        process.kill()
    assert not roll.lives(name)
    assert roll.take_over_dead() == [name]


def test_of_another_host_its_file_tells(folder: Path, roll: ReceiverLeases) -> None:
    name = elsewhere(folder, roll, PATIENCE - 5)
    assert roll.lives(name)
    name = elsewhere(folder, roll, PATIENCE + 5)
    assert not roll.lives(name)
    assert roll.take_over_dead() == [name]
    assert not (folder / name).exists()
    assert not roll.lives(name)


def test_who_starts_judges_nobody_of_another_host_yet(folder: Path, roll: ReceiverLeases) -> None:
    """Storage may have hung for all of them."""
    name = elsewhere(folder, roll, 2 * PATIENCE)
    late = ReceiverLeases(folder)
    late.sign_on()
    assert late.lives(name)
    assert late.take_over_dead() == []
    assert late.beat()
    assert late.take_over_dead() == [name]


def test_host_names_that_look_alike_are_two_hosts(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "ct-1")
    roll = ReceiverLeases(folder)
    roll.sign_on()
    gone = roll.name.replace(f"-{os.getpid()}-", "-999999999-")
    assert gone.startswith("ct+1-")
    (folder / gone).touch()
    assert not roll.lives(gone)
    other = gone.replace("ct+1-", "ct_1-")
    (folder / other).touch()
    assert roll.lives(other)


def test_another_namespace_is_another_host(folder: Path, roll: ReceiverLeases) -> None:
    """There, our process number is another process, or none."""
    name = f"{roll.name[:-1]}{(int(roll.name[-1]) + 1) % 10}".replace(
        f"-{os.getpid()}-", "-999999999-"
    )
    assert not roll.lives(name)
    (folder / name).touch()
    assert roll.lives(name)


def test_time_is_that_of_our_latest_beat(folder: Path, roll: ReceiverLeases) -> None:
    name = elsewhere(folder, roll, 0)
    before = time.time() - 2 * PATIENCE
    os.utime(folder / name, (before, before))
    os.utime(folder / roll.name, (before, before))
    assert roll.lives(name), "the file system's clock may be any"
    roll.beat()
    assert roll.lives(name), "it may have hung"
    roll.beat()
    assert not roll.lives(name)


def test_a_beat_says_whether_it_comes_late(folder: Path, roll: ReceiverLeases) -> None:
    assert roll.beat()
    long_ago = time.time() - PATIENCE
    os.utime(folder / roll.name, (long_ago, long_ago))
    assert not roll.beat()
    assert roll.beat()
    (folder / roll.name).unlink()
    assert not roll.beat()


def test_signing_off_and_on_again(folder: Path, roll: ReceiverLeases) -> None:
    roll.sign_off()
    roll.sign_off()
    assert os.listdir(folder) == []
    roll.beat()
    assert os.listdir(folder) == [roll.name]


def test_one_of_several_takes_over_what_a_dead_one_left(folder: Path, roll: ReceiverLeases) -> None:
    name = elsewhere(folder, roll, 2 * PATIENCE)
    other = ReceiverLeases(folder)
    other.sign_on()
    other.beat()
    assert other.take_over_dead() == [name]
    assert roll.take_over_dead() == []
    assert roll.holders() == {name: other.name}
    other.sign_off()
    assert os.listdir(folder) == [roll.name]


def test_an_heir_that_dies_has_an_heir(folder: Path, roll: ReceiverLeases) -> None:
    heir = elsewhere(folder, roll, 2 * PATIENCE)
    dead = "yet" + heir
    (folder / f"{dead}@{heir}").touch()
    assert sorted(roll.take_over_dead()) == sorted([dead, heir])
    assert roll.take_over_dead() == []
    assert roll.holders() == {dead: roll.name, heir: roll.name}


def test_one_that_was_taken_for_dead_and_lives_keeps_its_own(
    folder: Path, roll: ReceiverLeases
) -> None:
    alive = elsewhere(folder, roll, 0)
    (folder / f"{alive}@dead{roll.name}").touch()
    assert roll.take_over_dead() == []


@pytest.mark.parametrize("name", ["", "01M8A9337E7S9WXZPYKZ58W81B", "notes.txt"])
def test_entries_of_before_there_was_a_roll_are_nobodys(roll: ReceiverLeases, name: str) -> None:
    assert not roll.lives(name)
