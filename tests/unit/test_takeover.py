"""Takeover of series that other receivers and workers left: once, however storage fails."""

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


class StateFolder:
    """The state folder of a receiver, and of a dead receiver of another host."""

    def __init__(self, folder: Path) -> None:
        self.leases = ReceiverLeases(folder / "receivers")
        self.leases.acquire()
        self.dead = "other" + self.leases.name
        self.journal = Journal(folder / "journal", False, self.leases.name)
        self.folder = folder
        self.root_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)

    def die_on_this_host(self) -> None:
        """The dead receiver was one of this host, where its process is known to have ended."""
        self.dead = self.leases.name.replace(f"-{os.getpid()}-", "-999999999-")

    def leave_behind(self, series: SeriesInfo | None) -> None:
        file = self.folder / "receivers" / self.dead
        file.touch()
        long_ago = file.stat().st_mtime - 2 * LEASE_LIFETIME_S
        os.utime(file, (long_ago, long_ago))
        if series is not None:
            Journal(self.folder / "journal", False, self.dead).enter("01A", series)

    def make_takeover(self) -> Takeover:
        return Takeover(self.journal, self.leases, self.root_fd)

    def names(self) -> set[str]:
        return set(os.listdir(self.folder / "receivers"))


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StateFolder]:
    monkeypatch.setattr(takeover, "LEASE_RENEWAL_S", 0.01)
    state = StateFolder(tmp_path)
    yield state
    os.close(state.root_fd)


async def test_a_journal_that_cannot_be_listed_is_listed_later(
    state: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = state.make_takeover()
    assert ours.at_start() == []
    state.leave_behind(SERIES)
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


def test_others_may_renew_their_leases_first_after_storage_hung(state: StateFolder) -> None:
    """Their leases may be old for the same reason as ours was."""
    state.leave_behind(SERIES)
    ours, own = state.make_takeover(), state.folder / "receivers" / state.leases.name
    long_ago = own.stat().st_mtime - 2 * LEASE_LIFETIME_S
    os.utime(own, (long_ago, long_ago))
    ours._claim_of_others()
    assert state.names() == {state.leases.name, state.dead}
    os.utime(state.folder / "receivers" / state.dead)
    ours._claim_of_others()
    assert state.names() == {state.leases.name, state.dead}


async def test_the_journal_of_a_dead_worker_is_read_later_if_it_is_unreadable(
    state: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, writer = state.make_takeover(), f"{state.leases.name}/1"
    assert ours.at_start() == []
    Journal(state.folder / "journal", False, writer).enter("01A", SERIES)
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


def test_one_of_two_starting_receivers_takes_over_from_a_dead_one(state: StateFolder) -> None:
    state.die_on_this_host()
    state.leave_behind(SERIES)
    other = StateFolder(state.folder)
    try:
        assert len(state.make_takeover().at_start()) == 1
        assert other.make_takeover().at_start() == []
    finally:
        os.close(other.root_fd)


def test_no_lease_is_kept_of_a_receiver_that_left_nothing(state: StateFolder) -> None:
    state.die_on_this_host()
    state.leave_behind(None)
    assert state.make_takeover().at_start() == []
    assert state.names() == {state.leases.name}
