"""Workers as the supervisor sees them: how they end, and when their channels are read."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from oxidicom.app import supervisor, worker_process
from oxidicom.app.folder_claims import FolderClaims
from oxidicom.app.supervisor import Supervisor
from oxidicom.app.worker_messages import BeginAccepting, Drain
from oxidicom.app.worker_process import WorkerProcess
from oxidicom.backoff import Backoff
from oxidicom.net.shared_port import Scoreboard, listening_sockets
from oxidicom.ports import AssociationBegan, AssociationEnded, Report
from oxidicom.settings import load
from tests.support.raw_peer import RawPeer


@pytest.mark.parametrize(
    ("status", "words"),
    [(0, "exit status 0"), (3, "exit status 3"), (-9, "SIGKILL"), (-40, "signal 40")],
)
def test_an_exit_status_is_described(status: int, words: str) -> None:
    assert supervisor._describe_exit(status) == words


class Reports(list[Report]):
    """Reports of a worker; `waits` of them have not been processed."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = 0
        self.changed = asyncio.Event()

    def __call__(self, report: Report) -> None:
        self.append(report)
        self.changed.set()

    async def until(self, kind: type[Report]) -> None:
        async with asyncio.timeout(20):
            while not any(type(each) is kind for each in self):
                self.changed.clear()
                await self.changed.wait()


async def test_a_worker_s_channel_is_not_read_while_too_many_reports_wait(tmp_path: Path) -> None:
    """The worker is a real process; its reports stay with it, in their order."""
    settings, _ = load({"OXIDICOM_FILES_ROOT": str(tmp_path), "OXIDICOM_WORKERS": "2", "PORT": "0"})
    settings.state_dir.mkdir()
    reports = Reports()
    table = Scoreboard.create(2)
    (listening,) = listening_sockets("127.0.0.1", 0, 16)
    claims = FolderClaims(lambda key: None)
    checked = asyncio.Event()

    def backlog() -> int:
        checked.set()
        return reports.waits

    worker = WorkerProcess(2, settings, [listening], [], table, "us", claims, reports, backlog)
    await asyncio.wait_for(worker.ready.wait(), 20)
    worker.send(BeginAccepting())

    def associate() -> RawPeer:
        peer = RawPeer(listening.getsockname()[1])
        peer.associate()
        return peer

    reports.waits = worker_process.MAX_UNPROCESSED_REPORTS + 1
    peer = await asyncio.to_thread(associate)
    for _ in range(5):
        checked.clear()
        await asyncio.wait_for(checked.wait(), 20)
    assert reports == []
    reports.waits = 0
    await reports.until(AssociationBegan)
    assert len(worker.associations) == 1
    peer.release()
    peer.close()
    await reports.until(AssociationEnded)
    assert worker.associations == set()
    began, _ = reports
    assert isinstance(began, AssociationBegan)
    assert began.worker == 2

    worker.send(Drain())
    await asyncio.wait_for(worker.ended.wait(), 20)
    assert await worker.exit_status() == 0
    listening.close()
    os.close(table.fd)


async def test_a_worker_ends_when_its_channel_is_closed(tmp_path: Path) -> None:
    settings, _ = load({"OXIDICOM_FILES_ROOT": str(tmp_path), "OXIDICOM_WORKERS": "2"})
    settings.state_dir.mkdir()
    table = Scoreboard.create(2)
    claims = FolderClaims(lambda key: None)
    worker = WorkerProcess(1, settings, [], [], table, "us", claims, Reports(), lambda: 0)
    await asyncio.wait_for(worker.ready.wait(), 20)
    worker._process.send_signal(signal.SIGTERM)
    worker._channel.close()
    worker._on_closed()
    assert await worker.exit_status() == 1
    os.close(table.fd)


class EndedWorker:
    """A worker that ended `age_s` seconds after its start."""

    number = 1
    pid = 1
    faults = ()

    def __init__(self, age_s: float) -> None:
        self.began = time.monotonic() - age_s
        self.ready, self.ended = asyncio.Event(), asyncio.Event()
        self.ready.set()
        self.ended.set()


@pytest.mark.parametrize(
    ("ages_s", "delays_s"),
    [
        ([0, 0, 0, 0], [0.1, 0.2, 0.4, 0.8]),
        ([0] * 8, [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]),
        ([60, 0, 0], [0.1, 0.2, 0.4]),
        ([0, 0, 60, 60, 0], [0.1, 0.2, 0.1, 0.1, 0.2]),
    ],
)
async def test_replacement_is_delayed_by_the_deaths_since_a_worker_has_lived_long(
    monkeypatch: pytest.MonkeyPatch, ages_s: list[float], delays_s: list[float]
) -> None:
    delays: list[float] = []

    class RecordedBackoff(Backoff):
        def failed(self) -> float:
            delays.append(super().failed())
            return 0.001

    async def clean_up(worker: EndedWorker) -> None:
        if not workers:
            subject._draining.set()

    workers = [EndedWorker(age) for age in ages_s]
    monkeypatch.setattr(supervisor, "Backoff", RecordedBackoff)
    subject = Supervisor.__new__(Supervisor)
    subject._draining = asyncio.Event()
    subject._workers = {}
    monkeypatch.setattr(subject, "_clean_up", clean_up)
    monkeypatch.setattr(subject, "_start_worker", lambda number: workers.pop(0))
    await asyncio.wait_for(subject._replace_until_drain(workers.pop(0)), 20)  # type: ignore[arg-type]
    assert delays == delays_s
