"""The steps of a registration: count, outbox, journal, LONK (decisions 28 to 36)."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from oxidicom import disk_executor
from oxidicom.app import registrar as module
from oxidicom.app.lonk_observer import LonkObserver
from oxidicom.app.registrar import Registrar
from oxidicom.observers import (
    Observer,
    Observers,
    SeriesRegistered,
    TraceContext,
)
from oxidicom.ports import Registration, SeriesCompleted, SeriesInfo, SeriesKey
from oxidicom.series.journal import Journal, JournalFaults
from oxidicom.store.instance_files import count_instances

FOLDER = "SERVICES/PACS/PACS1/P1--/S-A-20240131/00001-D-abcdef0"


def series(uid: str = "1.2.3") -> SeriesInfo:
    return SeriesInfo(
        calling_ae_title="PACS 1",
        pacs_name="PACS1",
        path=FOLDER,
        patient_id="P1",
        study_date="2024-01-31",
        study_instance_uid="1.2",
        series_instance_uid=uid,
    )


class RelayRecorder:
    """Replaces relay and LONK publisher; records the calls in order."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.registrations: list[Registration] = []
        self.confirmations: list[asyncio.Future[bool]] = []
        self.confirm: bool | None = True
        self.depth = 0

    async def submit(self, registration: Registration) -> asyncio.Future[bool]:
        self.events.append(("outbox", registration.ndicom))
        self.registrations.append(registration)
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if self.confirm is not None:
            future.set_result(self.confirm)
        self.confirmations.append(future)
        return future

    def final(self, series: SeriesInfo, received: int) -> None:
        self.events.append(("final", received))

    def done(self, series: SeriesInfo, received: int) -> None:
        self.events.append(("done", received))


class Outcomes(Observer):
    def __init__(self) -> None:
        self.registered: list[SeriesRegistered] = []

    def series_registered(self, registered: SeriesRegistered) -> None:
        self.registered.append(registered)


class Bench:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.recorder = RelayRecorder()
        self.outcomes = Outcomes()
        self.journal = Journal(root / "journal", sync=False)
        self.completed = asyncio.Event()
        self.registrar = Registrar(
            files_root=root,
            journal=self.journal,
            relay=self.recorder,  # type: ignore[arg-type]
            observers=Observers([LonkObserver(self.recorder), self.outcomes]),  # type: ignore[arg-type]
            trace=TraceContext(),
            completed=self._on_completed,
        )

    def _on_completed(self, key: object) -> None:
        self.recorder.events.append(("completed", not list(self.journal.entries(JournalFaults()))))
        self.completed.set()

    def store(self, *names: str) -> None:
        folder = self.root / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            (folder / name).write_bytes(b"x")


@pytest_asyncio.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.registrar.close()


async def test_a_series_is_counted_queued_removed_from_the_journal_and_done(bench: Bench) -> None:
    bench.store("0001-1.1.dcm", "0002-1.2.dcm", "notes.txt")
    bench.journal.enter("A", series())
    bench.registrar.submit(SeriesCompleted(series(), 2, ("A",)))
    await bench.registrar.finish(5)
    assert bench.recorder.events == [
        ("final", 2),
        ("outbox", 2),
        ("completed", True),
        ("done", 2),
    ]


async def test_the_expected_count_is_waited_for_if_the_registration_contains_it(
    bench: Bench,
) -> None:
    bench.store("0001-1.1.dcm")
    answer: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
    queried: list[SeriesKey] = []

    async def expected(key: SeriesKey) -> int | None:
        queried.append(key)
        return await answer

    bench.registrar._expected = expected
    bench.registrar.submit(SeriesCompleted(series(), 1, ("A",)))
    assert not await bench.registrar.finish(0.05)
    assert bench.recorder.events == [("final", 1)]
    answer.set_result(7)
    assert await bench.registrar.finish(5)
    assert bench.recorder.registrations[0].expected == 7
    assert queried == [series().key]
    bench.registrar.submit(SeriesCompleted(series(), 1, ("B",), 1, 3))
    await bench.registrar.finish(5)
    assert bench.recorder.registrations[1].expected == 3
    assert len(queried) == 1, "known already"


async def test_the_registration_counts_files_and_lonk_counts_received_instances(
    bench: Bench,
) -> None:
    bench.store("0001-1.1.dcm", "0002-1.2.dcm", "0003-1.3.dcm")
    bench.registrar.submit(SeriesCompleted(series(), 1, ()))
    await bench.registrar.finish(5)
    assert ("outbox", 3) in bench.recorder.events
    assert ("final", 1) in bench.recorder.events


async def test_the_registration_has_attempts_expected_count_and_first_association(
    bench: Bench,
) -> None:
    bench.store("0001-1.1.dcm")
    bench.registrar.submit(SeriesCompleted(series(), 1, ("A", "B"), attempted=5, expected=7))
    bench.registrar.submit(SeriesCompleted(series("1.2.4"), 1, ()))
    await bench.registrar.finish(5)
    with_all, bare = sorted(bench.recorder.registrations, key=lambda each: -each.attempted)
    assert with_all == Registration(series(), 1, 5, 7, "A")
    assert bare == Registration(series("1.2.4"), 1)


async def test_the_registration_is_fitted_to_the_limits_of_cube(bench: Bench) -> None:
    """So the outbox entry is a small file, whatever a sender wrote."""
    bench.store("0001-1.1.dcm")
    sent = msgspec.structs.replace(series(), patient_name="x" * 5_000_000, patient_id="\ud800")
    bench.registrar.submit(SeriesCompleted(sent, 1, ("A",)))
    await bench.registrar.finish(5)
    (registration,) = bench.recorder.registrations
    assert len(registration.series.patient_name or "") == 150
    assert registration.series.patient_id == "?"


async def test_a_series_without_instances_is_not_registered(bench: Bench) -> None:
    bench.journal.enter("A", series())
    bench.registrar.submit(SeriesCompleted(series(), 0, ("A",)))
    await bench.registrar.finish(5)
    assert bench.recorder.events == [("completed", True)]


async def test_a_series_whose_files_were_removed_ends_in_done(bench: Bench) -> None:
    bench.registrar.submit(SeriesCompleted(series(), 2, ()))
    await bench.registrar.finish(5)
    assert bench.recorder.events == [("final", 2), ("completed", True), ("done", 2)]


async def test_done_waits_for_the_confirmation(bench: Bench) -> None:
    bench.store("0001-1.1.dcm")
    bench.recorder.confirm = None
    bench.registrar.submit(SeriesCompleted(series(), 1, ()))
    await asyncio.wait_for(bench.completed.wait(), 5)
    assert ("done", 1) not in bench.recorder.events
    bench.recorder.confirmations[0].set_result(True)
    await bench.registrar.finish(5)
    assert bench.recorder.events[-1] == ("done", 1)


async def test_done_waits_for_a_limited_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CONFIRMATION_WAIT_S", 0.05)
    bench.store("0001-1.1.dcm")
    bench.recorder.confirm = None
    bench.registrar.submit(SeriesCompleted(series(), 1, ()))
    await bench.registrar.finish(5)
    assert bench.recorder.events[-1] == ("done", 1)
    assert bench.recorder.confirmations[0].cancelled(), "the relay need not keep it"


async def test_a_shared_folder_is_tidied_before_it_is_counted(bench: Bench) -> None:
    bench.store("0001-1.1.dcm", "0002-1.1.dcm")

    def tidy(info: SeriesInfo) -> None:
        assert info == series()
        (bench.root / FOLDER / "0001-1.1.dcm").unlink()

    bench.registrar._tidy = tidy
    bench.registrar.submit(SeriesCompleted(series(), 1, ()))
    await bench.registrar.finish(5)
    assert ("outbox", 1) in bench.recorder.events


async def test_storage_calls_that_fail_are_repeated(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.store("0001-1.1.dcm")
    attempts = []

    def failing_twice(root: Path, info: SeriesInfo) -> int:
        attempts.append(root)
        if len(attempts) <= 2:
            raise OSError(errno.ESTALE, "stale")
        return count_instances(root, info)

    monkeypatch.setattr(module, "count_instances", failing_twice)
    monkeypatch.setattr(disk_executor, "FIRST_RETRY_S", 0.001)
    bench.registrar.submit(SeriesCompleted(series(), 1, ()))
    await bench.registrar.finish(5)
    assert len(attempts) == 3
    assert ("outbox", 1) in bench.recorder.events


async def test_a_series_received_twice_is_registered_in_that_order(bench: Bench) -> None:
    bench.store("0001-1.1.dcm")
    bench.registrar.submit(SeriesCompleted(series(), 1, ()))
    bench.registrar.submit(SeriesCompleted(series(), 7, ()))
    await bench.registrar.finish(5)
    finals = [event[1] for event in bench.recorder.events if event[0] == "final"]
    assert finals == [1, 7]
    outbox = [index for index, event in enumerate(bench.recorder.events) if event[0] == "outbox"]
    second_final = bench.recorder.events.index(("final", 7))
    assert outbox[0] < second_final < outbox[1]


async def test_a_series_that_cannot_be_registered_is_logged_and_stays_in_the_journal(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(registration: Registration) -> asyncio.Future[bool]:
        raise ValueError(registration.series.patient_id)

    monkeypatch.setattr(bench.recorder, "submit", refuse)
    bench.store("0001-1.1.dcm")
    bench.journal.enter("A", series())
    with caplog.at_level(logging.ERROR, "oxidicom.series"):
        bench.registrar.submit(SeriesCompleted(series(), 1, ("A",)))
        await bench.registrar.finish(5)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "P1" not in caplog.records[0].getMessage()
    assert [each.error for each in bench.outcomes.registered] == ["ValueError"]
    assert bench.recorder.events == [("final", 1)], "no done: the next start registers it"
    assert [entry.association_id for entry in bench.journal.entries(JournalFaults())] == ["A"]
    assert not bench.completed.is_set()


@pytest.mark.parametrize(
    ("confirmed", "level", "registration"),
    [
        (True, "INFO", "confirmed"),
        (False, "WARNING", "refused, kept in the outbox's folder"),
        (None, "WARNING", "waits in the outbox"),
    ],
)
async def test_the_log_has_the_outcome_of_the_registration(
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    confirmed: bool | None,
    level: str,
    registration: str,
) -> None:
    monkeypatch.setattr(module, "MAX_CONFIRMATION_WAIT_S", 0.05)
    bench.store("0001-1.1.dcm")
    bench.recorder.confirm = confirmed
    with caplog.at_level(logging.INFO, "oxidicom.series"):
        bench.registrar.submit(SeriesCompleted(series(), 1, ()))
        await bench.registrar.finish(5)
    (record,) = caplog.records
    assert record.levelname == level
    assert record.fields["registration"] == registration  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("expected", "level", "fields"),
    [
        (None, "INFO", {}),
        (2, "INFO", {"expected": 2}),
        (1, "INFO", {"expected": 1}),
        (0, "INFO", {"expected": 0}),
        (5, "WARNING", {"expected": 5, "short": 3}),
    ],
)
async def test_the_log_has_the_number_of_missing_instances(
    bench: Bench,
    caplog: pytest.LogCaptureFixture,
    expected: int | None,
    level: str,
    fields: dict[str, int],
) -> None:
    """All files of the folder count, also those received earlier."""
    bench.store("0001-1.1.dcm", "0002-1.2.dcm")
    with caplog.at_level(logging.INFO, "oxidicom.series"):
        bench.registrar.submit(SeriesCompleted(series(), 1, ("A",), 1, expected))
        await bench.registrar.finish(5)
    [line] = caplog.records
    assert (line.message, line.levelname) == ("series complete", level)
    logged = line.fields  # type: ignore[attr-defined]
    assert {name: logged[name] for name in ("expected", "short") if name in logged} == fields
