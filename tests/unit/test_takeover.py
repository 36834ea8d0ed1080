"""What others on the state folder left: found however storage fails meanwhile, and once."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from oxidicom.app import takeover
from oxidicom.app.takeover import Recovered, Takeover
from oxidicom.ports import SeriesInfo
from oxidicom.series.journal import Journal
from oxidicom.series.leases import LEASE_LIFETIME_S, ReceiverLeases

SERIES = SeriesInfo(
    calling_ae_title="PACS",
    pacs_name="PACS",
    patient_id="1",
    study_date="2026-01-01",
    study_instance_uid="1.2",
    series_instance_uid="1.2.3",
    path="SERVICES/PACS/PACS/a",
)


class Place:
    """A receiver's, and the traces of one of another host that died."""

    def __init__(self, folder: Path) -> None:
        self.roll = ReceiverLeases(folder / "receivers")
        self.roll.acquire()
        self.dead = "other" + self.roll.name
        self.journal = Journal(folder / "journal", False, self.roll.name)
        self.folder = folder
        self.root_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)

    def dies_here(self) -> None:
        """The one that died was of this machine: that can be told at once."""
        self.dead = self.roll.name.replace(f"-{os.getpid()}-", "-999999999-")

    def leave(self, series: SeriesInfo | None) -> None:
        file = self.folder / "receivers" / self.dead
        file.touch()
        long_ago = file.stat().st_mtime - 2 * LEASE_LIFETIME_S
        os.utime(file, (long_ago, long_ago))
        if series is not None:
            Journal(self.folder / "journal", False, self.dead).enter("01A", series)

    def recovery(self) -> Takeover:
        return Takeover(self.journal, self.roll, self.root_fd)

    def names(self) -> set[str]:
        return set(os.listdir(self.folder / "receivers"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr(takeover, "LEASE_RENEWAL_S", 0.01)
    place = Place(tmp_path)
    yield place
    os.close(place.root_fd)


async def test_a_journal_that_cannot_be_listed_is_listed_later(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = place.recovery()
    assert ours.at_start() == []
    place.leave(SERIES)
    find = ours._recover
    failures = 2

    def fails_first(*arguments: object) -> object:
        nonlocal failures
        if failures:
            failures -= 1
            assert not ours.found_all
            raise OSError(5, "Input/output error")
        return find(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ours, "_recover", fails_first)
    adopted: asyncio.Future[list[Recovered]] = asyncio.get_running_loop().create_future()
    ours.start(lambda found: adopted.set_result(list(found)))
    async with asyncio.timeout(10):
        (found,) = await adopted
    ours.stop()
    assert found.series == SERIES
    assert ours.found_all


def test_after_storage_that_hung_others_have_their_turn_first(place: Place) -> None:
    """Their files are as old as ours was."""
    place.leave(SERIES)
    ours, own = place.recovery(), place.folder / "receivers" / place.roll.name
    long_ago = own.stat().st_mtime - 2 * LEASE_LIFETIME_S
    os.utime(own, (long_ago, long_ago))
    ours._claim_of_others()
    assert place.names() == {place.roll.name, place.dead}
    os.utime(place.folder / "receivers" / place.dead)
    ours._claim_of_others()
    assert place.names() == {place.roll.name, place.dead}


async def test_of_a_worker_too(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, writer = place.recovery(), f"{place.roll.name}/1"
    assert ours.at_start() == []
    Journal(place.folder / "journal", False, writer).enter("01A", SERIES)
    adopted: asyncio.Future[list[Recovered]] = asyncio.get_running_loop().create_future()
    with monkeypatch.context() as patched:

        def fails(*arguments: object) -> object:
            raise OSError(5, "Input/output error")

        patched.setattr(ours, "_recover", fails)
        assert await ours.of_worker(writer) == []
    assert not ours.found_all
    ours.start(lambda found: adopted.set_result(list(found)))
    async with asyncio.timeout(10):
        (found,) = await adopted
    ours.stop()
    assert found.series == SERIES


def test_of_two_that_start_one_takes_what_a_dead_one_left(place: Place) -> None:
    place.dies_here()
    place.leave(SERIES)
    other = Place(place.folder)
    try:
        assert len(place.recovery().at_start()) == 1
        assert other.recovery().at_start() == []
    finally:
        os.close(other.root_fd)


def test_of_one_that_left_nothing_nothing_is_kept(place: Place) -> None:
    place.dies_here()
    place.leave(None)
    assert place.recovery().at_start() == []
    assert place.names() == {place.roll.name}
