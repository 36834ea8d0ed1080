"""The outbox relay: order, delays, refusals, storage that fails (decisions 21, 32, 35)."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from oxidicom.notify.outbox_inspect import RequeueOutcome, requeue
from oxidicom.notify.outbox_relay import OutboxRelay
from oxidicom.notify.outbox_store import Outbox, OutboxEntry, new_entry
from oxidicom.notify.publisher import Publisher, RegistrationRefusedError
from oxidicom.ports import Registration
from tests.support.fake_time import FakeTime, until
from tests.support.registrations import numbered

pytestmark = pytest.mark.both_loops


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path / "outbox", sync=False)


def files(tmp_path: Path) -> list[str]:
    return sorted(os.listdir(tmp_path / "outbox"))


class FakeBroker:
    """A publisher that accepts, fails, refuses or hangs, and records the registrations in order."""

    def __init__(self) -> None:
        self.accepted: list[tuple[str, int]] = []
        self.task_ids: list[str] = []
        self.attempts = 0
        self.down = False
        self.fails_on: set[str] = set()
        self.refuses: set[str] = set()
        self.open = asyncio.Event()
        self.open.set()
        self.arrived = asyncio.Event()
        self.in_progress: list[str] = []
        self.max_in_progress = 0
        self.closed = False

    async def publish(self, registration: Registration, task_id: str) -> None:
        uid = registration.series.series_instance_uid
        self.attempts += 1
        self.task_ids.append(task_id)
        assert uid not in self.in_progress, "two of one series in flight at once"
        self.in_progress.append(uid)
        self.max_in_progress = max(self.max_in_progress, len(self.in_progress))
        self.arrived.set()
        try:
            await self.open.wait()
            if self.down or uid in self.fails_on:
                raise ConnectionError("unreachable")
            if uid in self.refuses:
                raise RegistrationRefusedError("400")
            self.accepted.append((uid, registration.ndicom))
        finally:
            self.in_progress.remove(uid)

    async def close(self) -> None:
        self.closed = True


@asynccontextmanager
async def running(
    outbox: Outbox, broker: Publisher | None, time: FakeTime | None = None, in_flight: int = 8
) -> AsyncIterator[OutboxRelay]:
    time = time or FakeTime()
    relay = OutboxRelay(outbox, broker, max_in_flight=in_flight, clock=time.clock, sleep=time.sleep)
    await relay.start()
    try:
        yield relay
    finally:
        await relay.stop(0)


class TestDelivery:
    async def test_a_confirmed_entry_is_removed(self, outbox: Outbox) -> None:
        broker = FakeBroker()
        async with running(outbox, broker) as relay:
            await (await relay.submit(numbered(1, 7)))
            assert broker.accepted == [("1.2.826.1", 7)]
            assert outbox.depth() == 0
            assert relay.depth == 0
        assert broker.closed

    async def test_submit_returns_when_the_entry_is_on_disk(self, outbox: Outbox) -> None:
        broker = FakeBroker()
        broker.open.clear()
        async with running(outbox, broker) as relay:
            confirmed = await relay.submit(numbered(1))
            assert outbox.depth() == 1
            await broker.arrived.wait()
            assert not confirmed.done()
            broker.open.set()
            await confirmed

    async def test_entries_of_an_earlier_run_are_delivered_first_and_oldest_first(
        self, outbox: Outbox, tmp_path: Path
    ) -> None:
        for place, number in enumerate((3, 1, 2)):
            entry = new_entry(numbered(number))
            outbox.put(entry)
            os.utime(tmp_path / "outbox" / f"{entry.name}.json", ns=(0, place))
        broker = FakeBroker()
        async with running(outbox, broker, in_flight=1) as relay:
            await (await relay.submit(numbered(4)))
            await until(lambda: relay.depth == 0)
        assert [uid[-1] for uid, _ in broker.accepted] == ["3", "1", "2", "4"]

    async def test_delays_grow_to_thirty_seconds_and_attempts_never_end(
        self, outbox: Outbox
    ) -> None:
        broker, time = FakeBroker(), FakeTime()
        broker.down = True
        async with running(outbox, broker, time) as relay:
            confirmed = await relay.submit(numbered(1))
            delays: list[float] = []

            def has_tried(attempts: int) -> Callable[[], bool]:
                return lambda: broker.attempts == attempts and time.next_wake is not None

            for attempt in range(1, 10):
                await until(has_tried(attempt))
                delays.append(time.next_wake or 0)
                time.advance(delays[-1] - 0.001)
                await asyncio.sleep(0.01)
                assert broker.attempts == attempt
                broker.down = attempt < 9
                time.advance(0.002)
            await confirmed
        assert delays == pytest.approx([1, 2, 4, 8, 16, 30, 30, 30, 30])
        assert len(set(broker.task_ids)) == 1

    async def test_concurrent_failures_count_as_one(self, outbox: Outbox) -> None:
        broker, time = FakeBroker(), FakeTime()
        broker.down = True
        broker.open.clear()
        async with running(outbox, broker, time, in_flight=4) as relay:
            confirmations = [await relay.submit(numbered(number)) for number in range(4)]
            await until(lambda: len(broker.in_progress) == 4)
            broker.open.set()
            await until(lambda: not broker.in_progress and time.next_wake)
            assert time.next_wake == pytest.approx(1)
            broker.down = False
            time.advance(1)
            await asyncio.gather(*confirmations)

    async def test_a_success_ends_the_delays_of_all_entries(self, outbox: Outbox) -> None:
        broker, time = FakeBroker(), FakeTime()
        broker.down = True
        async with running(outbox, broker, time) as relay:
            confirmations = [await relay.submit(numbered(number)) for number in range(20)]
            await until(lambda: not broker.in_progress and time.next_wake)
            broker.down = False
            time.advance(time.next_wake or 0)
            await asyncio.gather(*confirmations)
        assert len(broker.accepted) == 20
        assert broker.max_in_progress <= 8

    async def test_a_new_registration_is_tried_before_the_delay_ends(self, outbox: Outbox) -> None:
        broker, time = FakeBroker(), FakeTime()
        broker.down = True
        async with running(outbox, broker, time) as relay:
            first = await relay.submit(numbered(1))

            def has_tried(attempts: int) -> Callable[[], bool]:
                return lambda: broker.attempts == attempts and time.next_wake is not None

            for attempt in range(1, 5):
                await until(has_tried(attempt))
                time.advance(time.next_wake or 0)
            await until(has_tried(5))
            assert time.next_wake == pytest.approx(16)
            broker.down = False
            time.advance(2)
            await (await relay.submit(numbered(2)))
            await first

    async def test_an_entry_that_always_fails_does_not_block_others(self, outbox: Outbox) -> None:
        broker, time = FakeBroker(), FakeTime()
        broker.fails_on = {"1.2.826.1"}
        async with running(outbox, broker, time, in_flight=1) as relay:
            await relay.submit(numbered(1))
            others = [await relay.submit(numbered(number)) for number in range(2, 6)]
            while not all(other.done() for other in others):
                await until(lambda: time.next_wake or all(other.done() for other in others))
                time.advance(1)
            assert relay.depth == 1
        assert broker.attempts <= 4 + 3
        assert [entry.registration for entry in outbox.pending()] == [numbered(1)]

    async def test_a_refused_entry_is_kept_and_not_tried_again(
        self, outbox: Outbox, tmp_path: Path
    ) -> None:
        broker = FakeBroker()
        broker.refuses = {"1.2.826.1"}
        async with running(outbox, broker) as relay:
            await (await relay.submit(numbered(1)))
            await (await relay.submit(numbered(2)))
            assert relay.depth == 0
        assert broker.attempts == 2
        assert files(tmp_path) == [f"{new_entry(numbered(1)).name}.refused"]

    async def test_the_outcome_of_each_entry_is_reported(self, outbox: Outbox) -> None:
        outcomes: list[tuple[str, str | None]] = []
        broker, time = FakeBroker(), FakeTime()
        broker.refuses = {"1.2.826.1"}
        relay = OutboxRelay(
            outbox,
            broker,
            sleep=time.sleep,
            clock=time.clock,
            on_outcome=lambda key, refusal: outcomes.append((key.series_instance_uid, refusal)),
        )
        await relay.start()
        await (await relay.submit(numbered(1)))
        broker.down = True
        outcome = await relay.submit(numbered(2))
        await until(lambda: relay.last_error and time.next_wake is not None)
        assert relay.last_error == "ConnectionError: unreachable"
        broker.down = False
        time.advance(1)
        await outcome
        assert relay.last_error is None
        assert outcomes == [("1.2.826.1", "400"), ("1.2.826.2", None)]
        await relay.stop(0)

    async def test_never_an_older_count_after_a_newer_one(self, outbox: Outbox) -> None:
        broker = FakeBroker()
        broker.open.clear()
        async with running(outbox, broker) as relay:
            older = await relay.submit(numbered(1, 10))
            await broker.arrived.wait()
            replaced = await relay.submit(numbered(1, 11))
            newest = await relay.submit(numbered(1, 12))
            broker.open.set()
            await asyncio.gather(older, replaced, newest)
        assert broker.accepted == [("1.2.826.1", 10), ("1.2.826.1", 12)]
        assert outbox.depth() == 0

    async def test_a_newer_count_replaces_one_whose_delivery_failed(self, outbox: Outbox) -> None:
        broker, time = FakeBroker(), FakeTime()
        broker.down = True
        async with running(outbox, broker, time) as relay:
            older = await relay.submit(numbered(1, 10))
            await until(lambda: time.next_wake)
            broker.down = False
            newer = await relay.submit(numbered(1, 12))
            time.advance(1)
            await asyncio.gather(older, newer)
        assert broker.accepted == [("1.2.826.1", 12)]

    async def test_without_a_publisher_entries_stay(
        self, outbox: Outbox, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING):
            async with running(outbox, None) as relay:
                for number in range(3):
                    await (await relay.submit(numbered(number)))
        assert outbox.depth() == 3
        assert not caplog.records, "the settings have warned already"

    @pytest.mark.parametrize("with_broker", [False, True])
    async def test_temporary_files_of_a_killed_writer_are_removed_at_start(
        self, outbox: Outbox, tmp_path: Path, with_broker: bool
    ) -> None:
        outbox.put(new_entry(numbered(1)))
        left = tmp_path / "outbox" / ".left.tmp"
        left.touch()
        os.utime(left, (0, 0))
        async with running(outbox, FakeBroker() if with_broker else None):
            await until(lambda: not left.exists())

    async def test_stop_delivers_what_is_queued(self, outbox: Outbox) -> None:
        broker, time = FakeBroker(), FakeTime()
        broker.down = True
        relay = OutboxRelay(outbox, broker, clock=time.clock, sleep=time.sleep)
        await relay.start()
        for number in range(5):
            await relay.submit(numbered(number))
        await until(lambda: time.next_wake)
        broker.down = False
        assert await relay.stop(5) == 0
        assert len(broker.accepted) == 5
        with pytest.raises(RuntimeError):
            await relay.submit(numbered(9))

    async def test_what_stop_does_not_deliver_is_left_to_the_next_run(self, outbox: Outbox) -> None:
        broker = FakeBroker()
        broker.open.clear()
        relay = OutboxRelay(outbox, broker)
        await relay.start()
        confirmed = await relay.submit(numbered(1))
        await broker.arrived.wait()
        assert await relay.stop(0.01) == 1
        assert not confirmed.done()
        later = FakeBroker()
        async with running(outbox, later) as relay:
            await until(lambda: later.accepted)
        assert later.task_ids == broker.task_ids

    async def test_a_cancelled_outcome_is_forgotten_and_the_delivery_continues(
        self, outbox: Outbox
    ) -> None:
        broker = FakeBroker()
        broker.open.clear()
        async with running(outbox, broker) as relay:
            confirmed = await relay.submit(numbered(1))
            confirmed.cancel()
            await broker.arrived.wait()
            assert not relay._unresolved
            broker.open.set()
            await until(lambda: relay.depth == 0)
        assert len(broker.accepted) == 1

    async def test_ten_thousand_entries_are_not_held_in_memory(self, outbox: Outbox) -> None:
        # Names of entries that are not even there: what counts is that none is read ahead.
        reads: list[str] = []

        class Counting(Outbox):
            def names(self) -> list[str]:
                return [f"{number:040x}" for number in range(10_000)]

            def read(self, name: str) -> OutboxEntry | None:
                reads.append(name)
                return new_entry(numbered(int(name, 16)))

        broker = FakeBroker()
        broker.open.clear()
        async with running(Counting(Path("/nonexistent"), sync=False), broker) as relay:
            await until(lambda: len(broker.in_progress) == 8)
            assert len(reads) == 8
            assert relay.depth == 10_000


class TestEntriesOfOthers:
    async def test_a_requeued_entry_is_delivered_without_a_restart(
        self, outbox: Outbox, tmp_path: Path
    ) -> None:
        broker, scan_time = FakeBroker(), FakeTime()
        broker.refuses = {"1.2.826.1"}
        relay = OutboxRelay(outbox, broker, scan_sleep=scan_time.sleep)
        await relay.start()
        assert not await (await relay.submit(numbered(1)))
        broker.refuses.clear()
        (path,) = (tmp_path / "outbox").iterdir()
        assert requeue(path, sync=False) is RequeueOutcome.BACK
        assert broker.attempts == 1
        await until(lambda: scan_time.next_wake)
        scan_time.advance(1)
        await until(lambda: broker.accepted)
        await until(lambda: not files(tmp_path))
        assert len(set(broker.task_ids)) == 1
        assert await relay.stop(1) == 0

    async def test_old_entries_of_a_dead_receiver_are_delivered(
        self, outbox: Outbox, tmp_path: Path
    ) -> None:
        broker, scan_time = FakeBroker(), FakeTime()
        relay = OutboxRelay(outbox, broker, scan_sleep=scan_time.sleep)
        await relay.start()
        await (await relay.submit(numbered(1)))
        dead = new_entry(numbered(2))
        Outbox(tmp_path / "outbox", sync=False).put(dead)
        os.utime(tmp_path / "outbox" / f"{dead.name}.json", (0, 0))
        await until(lambda: scan_time.next_wake)
        scan_time.advance(1)
        await until(lambda: len(broker.accepted) == 2)
        assert await relay.stop(1) == 0

    async def test_a_newer_entry_that_another_receiver_writes_meanwhile_is_delivered(
        self, outbox: Outbox, tmp_path: Path
    ) -> None:
        broker = FakeBroker()
        broker.open.clear()
        async with running(outbox, broker) as relay:
            older = await relay.submit(numbered(1, 10))
            await broker.arrived.wait()
            Outbox(tmp_path / "outbox", sync=False).put(new_entry(numbered(1, 11)))
            broker.open.set()
            await older
            await until(lambda: len(broker.accepted) == 2)
            await until(lambda: relay.depth == 0)
        assert broker.accepted == [("1.2.826.1", 10), ("1.2.826.1", 11)]
        assert files(tmp_path) == []

    async def test_a_refused_entry_holds_the_number_of_attempts(
        self, outbox: Outbox, tmp_path: Path
    ) -> None:
        broker, time = FakeBroker(), FakeTime()
        broker.down = True
        async with running(outbox, broker, time) as relay:
            outcome = await relay.submit(numbered(1))
            for attempt in (1, 2):
                await until(lambda: broker.attempts == attempt and time.next_wake)  # noqa: B023
                broker.down, broker.refuses = attempt < 2, {"1.2.826.1"}
                time.advance(time.next_wake or 0)
            assert not await outcome
            assert not relay._attempts
        (path,) = (tmp_path / "outbox").iterdir()
        refusal = json.loads(path.read_bytes())["refusal"]
        assert (refusal["attempts"], refusal["reason"]) == (3, "400")


class FailingOutbox(Outbox):
    """An outbox whose next writes raise `failures`, and hang unless `healthy` is set."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, sync=False)
        self.failures: list[OSError] = []
        self.healthy = threading.Event()
        self.healthy.set()

    def put(self, entry: OutboxEntry) -> None:
        assert self.healthy.wait(5)
        if self.failures:
            raise self.failures.pop()
        super().put(entry)


class TestFailingStorage:
    async def test_writing_to_a_full_disk_is_repeated_until_it_succeeds(
        self, tmp_path: Path
    ) -> None:
        outbox, broker, time = FailingOutbox(tmp_path / "outbox"), FakeBroker(), FakeTime()
        outbox.failures = [OSError(errno.ENOSPC, "full") for _ in range(3)]
        async with running(outbox, broker, time, in_flight=1) as relay:
            submits = [asyncio.create_task(relay.submit(numbered(n))) for n in range(4)]
            for _ in range(3):
                await until(lambda: time.next_wake)
                assert relay.depth == 4
                assert not any(submit.done() for submit in submits)
                time.advance(time.next_wake or 0)
            for submit in submits:
                await (await submit)
        assert [uid[-1] for uid, _ in broker.accepted] == ["0", "1", "2", "3"]

    async def test_hung_storage_does_not_stall_the_loop(self, tmp_path: Path) -> None:
        outbox, broker = FailingOutbox(tmp_path / "outbox"), FakeBroker()
        outbox.healthy.clear()
        async with running(outbox, broker) as relay:
            submit = asyncio.create_task(relay.submit(numbered(1)))
            beats = 0
            while beats < 20:
                await asyncio.sleep(0.001)
                beats += 1
            assert not submit.done()
            outbox.healthy.set()
            await (await submit)

    async def test_a_cancelled_caller_does_not_cancel_its_write(self, tmp_path: Path) -> None:
        outbox, broker = FailingOutbox(tmp_path / "outbox"), FakeBroker()
        outbox.healthy.clear()
        async with running(outbox, broker) as relay:
            submit = asyncio.create_task(relay.submit(numbered(1)))
            await until(lambda: relay.depth == 1)
            submit.cancel()
            outbox.healthy.set()
            await until(lambda: broker.accepted)
            assert submit.cancelled()

    async def test_an_entry_that_cannot_be_written_raises_and_does_not_block_others(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        outbox, broker = FailingOutbox(tmp_path / "outbox"), FakeBroker()
        async with running(outbox, broker) as relay:
            with pytest.raises(TypeError):
                await relay.submit(Registration(numbered(1).series, object()))  # type: ignore[arg-type]
            await (await relay.submit(numbered(2)))
