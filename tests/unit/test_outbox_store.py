"""The outbox on disk, and the courier that empties it (decisions 21, 32, 35)."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from oxidicom.notify.cube_fields import fit
from oxidicom.notify.outbox_inspect import RequeueOutcome, requeue
from oxidicom.notify.outbox_relay import OutboxRelay
from oxidicom.notify.outbox_store import Outbox, OutboxEntry, new_entry
from oxidicom.notify.publisher import Publisher, RegistrationRefusedError
from oxidicom.ports import Registration
from tests.support.registrations import numbered, registration

pytestmark = pytest.mark.both_loops


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path / "outbox", sync=False)


def files(tmp_path: Path) -> list[str]:
    return sorted(os.listdir(tmp_path / "outbox"))


class TestOutbox:
    @pytest.mark.parametrize("sync", [False, True])
    def test_an_entry_survives_the_process(self, tmp_path: Path, sync: bool) -> None:
        entry = new_entry(registration())
        Outbox(tmp_path / "a" / "b", sync=sync).put(entry)
        again = Outbox(tmp_path / "a" / "b", sync=sync)
        assert list(again.pending()) == [entry]
        assert again.depth() == 1
        assert again.remove(entry)
        assert list(again.pending()) == []
        assert os.listdir(tmp_path / "a" / "b") == []

    def test_a_trace_is_kept_and_entries_of_before_there_were_any_are_read(
        self, outbox: Outbox, tmp_path: Path
    ) -> None:
        traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        entry = new_entry(msgspec.structs.replace(registration(), traceparent=traceparent))
        outbox.put(entry)
        assert [each.registration.traceparent for each in outbox.pending()] == [traceparent]
        [path] = (tmp_path / "outbox").glob("*.json")
        written = json.loads(path.read_bytes())
        del written["registration"]["traceparent"]
        path.write_text(json.dumps(written))
        assert [each.registration.traceparent for each in outbox.pending()] == [None]

    def test_before_anything_was_put(self, outbox: Outbox) -> None:
        assert outbox.names() == []
        assert outbox.depth() == 0
        assert outbox.read("absent") is None

    def test_how_it_stands(self, outbox: Outbox, tmp_path: Path) -> None:
        assert outbox.counts() == (0, 0, None)
        for number in (1, 2, 3):
            outbox.put(new_entry(numbered(number)))
        (oldest, *_) = outbox.names()
        os.utime(tmp_path / "outbox" / f"{oldest}.json", (5, 5))
        (tmp_path / "outbox" / ".half-written.json").touch()
        refused = outbox.read(outbox.names()[1])
        assert refused is not None
        outbox.refuse(refused, "400")
        assert outbox.counts() == (2, 1, 5.0)

    def test_a_newer_registration_replaces_an_older_one(self, outbox: Outbox) -> None:
        older, newer = new_entry(registration(1)), new_entry(registration(2))
        outbox.put(older)
        outbox.put(newer)
        assert list(outbox.pending()) == [newer]
        assert not outbox.remove(older)
        assert not outbox.refuse(older, "400")
        assert list(outbox.pending()) == [newer]

    def test_oldest_first(self, outbox: Outbox, tmp_path: Path) -> None:
        entries = [new_entry(numbered(number)) for number in (3, 1, 2)]
        for place, entry in enumerate(entries):
            outbox.put(entry)
            os.utime(tmp_path / "outbox" / f"{entry.name}.json", ns=(0, place))
        assert list(outbox.pending()) == entries

    @pytest.mark.parametrize("data", [b"", b"{", b"null", b'{"task_id":"x"}', b"\xff" * 9])
    def test_a_corrupt_entry_is_set_aside(
        self, outbox: Outbox, tmp_path: Path, data: bytes
    ) -> None:
        good, bad = new_entry(numbered(1)), new_entry(numbered(2))
        outbox.put(good)
        outbox.put(bad)
        (tmp_path / "outbox" / f"{bad.name}.json").write_bytes(data)
        assert list(outbox.pending()) == [good]
        assert outbox.depth() == 1
        assert (tmp_path / "outbox" / f"{bad.name}.corrupt").read_bytes() == data

    def test_a_refused_entry_is_kept_but_not_pending(self, outbox: Outbox, tmp_path: Path) -> None:
        entry = new_entry(numbered(1))
        outbox.put(entry)
        assert outbox.refuse(entry, "400")
        assert outbox.depth() == 0
        assert files(tmp_path) == [f"{entry.name}.refused"]

    def test_keys_are_not_mixed_up(self, outbox: Outbox) -> None:
        for pacs_name, uid in (
            ("A", "1"),
            ("A1", ""),
            ("", "A1"),
            ("..", "/etc"),
            ("é", "x" * 300),
        ):
            outbox.put(new_entry(registration(pacs_name=pacs_name, series_instance_uid=uid)))
        assert outbox.depth() == 5

    def test_a_fitted_registration_is_a_small_file_whatever_a_sender_wrote(
        self, outbox: Outbox
    ) -> None:
        sent = registration(patient_name="x" * 5_000_000, patient_id="\ud800")
        outbox.put(new_entry(fit(sent)))
        (entry,) = outbox.pending()
        assert entry.registration.series.patient_id == "?"
        assert len(entry.registration.series.patient_name or "") == 150

    def test_an_entry_longer_than_any_that_is_read_is_not_written(
        self, outbox: Outbox, tmp_path: Path
    ) -> None:
        """It would be an OSError of the disk otherwise, which the relay repeats without end."""
        with pytest.raises(ValueError, match="longer than any outbox entry"):
            outbox.put(new_entry(registration(patient_name="x" * 5_000_000)))
        assert files(tmp_path) == []


class FakeBroker:
    """Takes, refuses or hangs, as told; knows what came, in order."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, int]] = []
        self.task_ids: list[str] = []
        self.attempts = 0
        self.down = False
        self.chokes_on: set[str] = set()
        self.refuses: set[str] = set()
        self.open = asyncio.Event()
        self.open.set()
        self.arrived = asyncio.Event()
        self.under_way: list[str] = []
        self.most_under_way = 0
        self.closed = False

    async def publish(self, registration: Registration, task_id: str) -> None:
        uid = registration.series.series_instance_uid
        self.attempts += 1
        self.task_ids.append(task_id)
        assert uid not in self.under_way, "two of one series at once"
        self.under_way.append(uid)
        self.most_under_way = max(self.most_under_way, len(self.under_way))
        self.arrived.set()
        try:
            await self.open.wait()
            if self.down or uid in self.chokes_on:
                raise ConnectionError("away")
            if uid in self.refuses:
                raise RegistrationRefusedError("400")
            self.taken.append((uid, registration.ndicom))
        finally:
            self.under_way.remove(uid)

    async def close(self) -> None:
        self.closed = True


class FakeTime:
    """A clock that only moves when somebody advances it; sleepers wake then."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        self._sleepers: deque[tuple[float, asyncio.Future[None]]] = deque()

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        sleeper = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.now + seconds, sleeper))
        await sleeper

    def advance(self, seconds: float) -> None:
        self.now += seconds
        for until, sleeper in self._sleepers:
            if until <= self.now and not sleeper.done():
                sleeper.set_result(None)
        self._sleepers = deque(pair for pair in self._sleepers if not pair[1].done())

    @property
    def next_wake(self) -> float | None:
        """Seconds from now."""
        waiting = [until - self.now for until, sleeper in self._sleepers if not sleeper.done()]
        return min(waiting, default=None)


@asynccontextmanager
async def running(
    outbox: Outbox, broker: Publisher | None, time: FakeTime | None = None, in_flight: int = 8
) -> AsyncIterator[OutboxRelay]:
    time = time or FakeTime()
    courier = OutboxRelay(
        outbox, broker, max_in_flight=in_flight, clock=time.clock, sleep=time.sleep
    )
    await courier.start()
    try:
        yield courier
    finally:
        await courier.stop(0)


async def until(condition: Callable[[], object]) -> None:
    """Give way to loop and disk thread until `condition()` holds."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 (what is waited for has no event)
            await asyncio.sleep(0.001)


class TestCourier:
    async def test_confirmed_means_removed(self, outbox: Outbox) -> None:
        broker = FakeBroker()
        async with running(outbox, broker) as courier:
            await (await courier.submit(numbered(1, 7)))
            assert broker.taken == [("1.2.826.1", 7)]
            assert outbox.depth() == 0
            assert courier.depth == 0
        assert broker.closed

    async def test_submit_returns_when_it_is_on_disk(self, outbox: Outbox) -> None:
        broker = FakeBroker()
        broker.open.clear()
        async with running(outbox, broker) as courier:
            confirmed = await courier.submit(numbered(1))
            assert outbox.depth() == 1
            await broker.arrived.wait()
            assert not confirmed.done()
            broker.open.set()
            await confirmed

    async def test_entries_of_an_earlier_run_oldest_first(
        self, outbox: Outbox, tmp_path: Path
    ) -> None:
        for place, number in enumerate((3, 1, 2)):
            entry = new_entry(numbered(number))
            outbox.put(entry)
            os.utime(tmp_path / "outbox" / f"{entry.name}.json", ns=(0, place))
        broker = FakeBroker()
        async with running(outbox, broker, in_flight=1) as courier:
            await (await courier.submit(numbered(4)))
            await until(lambda: courier.depth == 0)
        assert [uid[-1] for uid, _ in broker.taken] == ["3", "1", "2", "4"]

    async def test_backs_off_to_thirty_seconds_and_never_gives_up(self, outbox: Outbox) -> None:
        broker, time = FakeBroker(), FakeTime()
        broker.down = True
        async with running(outbox, broker, time) as courier:
            confirmed = await courier.submit(numbered(1))
            delays: list[float] = []

            def retried(attempts: int) -> Callable[[], bool]:
                return lambda: broker.attempts == attempts and time.next_wake is not None

            for attempt in range(1, 10):
                await until(retried(attempt))
                delays.append(time.next_wake or 0)
                time.advance(delays[-1] - 0.001)
                await asyncio.sleep(0.01)
                assert broker.attempts == attempt
                broker.down = attempt < 9
                time.advance(0.002)
            await confirmed
        assert delays == pytest.approx([1, 2, 4, 8, 16, 30, 30, 30, 30])
        assert len(set(broker.task_ids)) == 1

    async def test_parallel_failures_are_one_failure(self, outbox: Outbox) -> None:
        broker, time = FakeBroker(), FakeTime()
        broker.down = True
        broker.open.clear()
        async with running(outbox, broker, time, in_flight=4) as courier:
            confirmations = [await courier.submit(numbered(number)) for number in range(4)]
            await until(lambda: len(broker.under_way) == 4)
            broker.open.set()
            await until(lambda: not broker.under_way and time.next_wake)
            assert time.next_wake == pytest.approx(1)
            broker.down = False
            time.advance(1)
            await asyncio.gather(*confirmations)

    async def test_success_ends_the_back_off_for_all(self, outbox: Outbox) -> None:
        broker, time = FakeBroker(), FakeTime()
        broker.down = True
        async with running(outbox, broker, time) as courier:
            confirmations = [await courier.submit(numbered(number)) for number in range(20)]
            await until(lambda: not broker.under_way and time.next_wake)
            broker.down = False
            time.advance(time.next_wake or 0)
            await asyncio.gather(*confirmations)
        assert len(broker.taken) == 20
        assert broker.most_under_way <= 8

    async def test_a_new_registration_wakes_it(self, outbox: Outbox) -> None:
        broker, time = FakeBroker(), FakeTime()
        broker.down = True
        async with running(outbox, broker, time) as courier:
            first = await courier.submit(numbered(1))

            def retried(attempts: int) -> Callable[[], bool]:
                return lambda: broker.attempts == attempts and time.next_wake is not None

            for attempt in range(1, 5):
                await until(retried(attempt))
                time.advance(time.next_wake or 0)
            await until(retried(5))
            assert time.next_wake == pytest.approx(16)
            broker.down = False
            time.advance(2)
            await (await courier.submit(numbered(2)))
            await first

    async def test_one_that_the_broker_chokes_on_does_not_hold_up_others(
        self, outbox: Outbox
    ) -> None:
        broker, time = FakeBroker(), FakeTime()
        broker.chokes_on = {"1.2.826.1"}
        async with running(outbox, broker, time, in_flight=1) as courier:
            await courier.submit(numbered(1))
            others = [await courier.submit(numbered(number)) for number in range(2, 6)]
            while not all(other.done() for other in others):
                await until(lambda: time.next_wake or all(other.done() for other in others))
                time.advance(1)
            assert courier.depth == 1
        assert broker.attempts <= 4 + 3
        assert [entry.registration for entry in outbox.pending()] == [numbered(1)]

    async def test_refused_for_ever(self, outbox: Outbox, tmp_path: Path) -> None:
        broker = FakeBroker()
        broker.refuses = {"1.2.826.1"}
        async with running(outbox, broker) as courier:
            await (await courier.submit(numbered(1)))
            await (await courier.submit(numbered(2)))
            assert courier.depth == 0
        assert broker.attempts == 2
        assert files(tmp_path) == [f"{new_entry(numbered(1)).name}.refused"]

    async def test_what_leaves_it_is_told(self, outbox: Outbox) -> None:
        told: list[tuple[str, str | None]] = []
        broker, time = FakeBroker(), FakeTime()
        broker.refuses = {"1.2.826.1"}
        courier = OutboxRelay(
            outbox,
            broker,
            sleep=time.sleep,
            clock=time.clock,
            on_outcome=lambda key, refusal: told.append((key.series_instance_uid, refusal)),
        )
        await courier.start()
        await (await courier.submit(numbered(1)))
        broker.down = True
        settled = await courier.submit(numbered(2))
        await until(lambda: courier.last_error and time.next_wake is not None)
        assert courier.last_error == "ConnectionError: away"
        broker.down = False
        time.advance(1)
        await settled
        assert courier.last_error is None
        assert told == [("1.2.826.1", "400"), ("1.2.826.2", None)]
        await courier.stop(0)

    async def test_never_an_older_count_after_a_newer_one(self, outbox: Outbox) -> None:
        broker = FakeBroker()
        broker.open.clear()
        async with running(outbox, broker) as courier:
            older = await courier.submit(numbered(1, 10))
            await broker.arrived.wait()
            replaced = await courier.submit(numbered(1, 11))
            newest = await courier.submit(numbered(1, 12))
            broker.open.set()
            await asyncio.gather(older, replaced, newest)
        assert broker.taken == [("1.2.826.1", 10), ("1.2.826.1", 12)]
        assert outbox.depth() == 0

    async def test_a_newer_count_replaces_one_that_failed(self, outbox: Outbox) -> None:
        broker, time = FakeBroker(), FakeTime()
        broker.down = True
        async with running(outbox, broker, time) as courier:
            older = await courier.submit(numbered(1, 10))
            await until(lambda: time.next_wake)
            broker.down = False
            newer = await courier.submit(numbered(1, 12))
            time.advance(1)
            await asyncio.gather(older, newer)
        assert broker.taken == [("1.2.826.1", 12)]

    async def test_without_a_broker_they_stay(
        self, outbox: Outbox, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING):
            async with running(outbox, None) as courier:
                for number in range(3):
                    await (await courier.submit(numbered(number)))
        assert outbox.depth() == 3
        assert not caplog.records, "the settings have warned already"

    @pytest.mark.parametrize("with_broker", [False, True])
    async def test_what_a_killed_writer_left_goes_at_start(
        self, outbox: Outbox, tmp_path: Path, with_broker: bool
    ) -> None:
        outbox.put(new_entry(numbered(1)))
        left = tmp_path / "outbox" / ".left.tmp"
        left.touch()
        os.utime(left, (0, 0))
        async with running(outbox, FakeBroker() if with_broker else None):
            await until(lambda: not left.exists())

    async def test_stop_delivers_what_it_can(self, outbox: Outbox) -> None:
        broker, time = FakeBroker(), FakeTime()
        broker.down = True
        courier = OutboxRelay(outbox, broker, clock=time.clock, sleep=time.sleep)
        await courier.start()
        for number in range(5):
            await courier.submit(numbered(number))
        await until(lambda: time.next_wake)
        broker.down = False
        assert await courier.stop(5) == 0
        assert len(broker.taken) == 5
        with pytest.raises(RuntimeError):
            await courier.submit(numbered(9))

    async def test_stop_gives_up_and_the_next_run_delivers(self, outbox: Outbox) -> None:
        broker = FakeBroker()
        broker.open.clear()
        courier = OutboxRelay(outbox, broker)
        await courier.start()
        confirmed = await courier.submit(numbered(1))
        await broker.arrived.wait()
        assert await courier.stop(0.01) == 1
        assert not confirmed.done()
        later = FakeBroker()
        async with running(outbox, later) as courier:
            await until(lambda: later.taken)
        assert later.task_ids == broker.task_ids

    async def test_nobody_waits_any_more(self, outbox: Outbox) -> None:
        broker = FakeBroker()
        broker.open.clear()
        async with running(outbox, broker) as courier:
            confirmed = await courier.submit(numbered(1))
            confirmed.cancel()
            await broker.arrived.wait()
            assert not courier._unresolved
            broker.open.set()
            await until(lambda: courier.depth == 0)
        assert len(broker.taken) == 1

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
        async with running(Counting(Path("/nonexistent"), sync=False), broker) as courier:
            await until(lambda: len(broker.under_way) == 8)
            assert len(reads) == 8
            assert courier.depth == 10_000


class TestOthersEntries:
    async def test_one_put_back_is_delivered_without_a_restart(
        self, outbox: Outbox, tmp_path: Path
    ) -> None:
        broker, glances = FakeBroker(), FakeTime()
        broker.refuses = {"1.2.826.1"}
        courier = OutboxRelay(outbox, broker, scan_sleep=glances.sleep)
        await courier.start()
        assert not await (await courier.submit(numbered(1)))
        broker.refuses.clear()
        (path,) = (tmp_path / "outbox").iterdir()
        assert requeue(path, sync=False) is RequeueOutcome.BACK
        assert broker.attempts == 1
        await until(lambda: glances.next_wake)
        glances.advance(1)
        await until(lambda: broker.taken)
        await until(lambda: not files(tmp_path))
        assert len(set(broker.task_ids)) == 1
        assert await courier.stop(1) == 0

    async def test_those_of_a_receiver_that_is_no_more(
        self, outbox: Outbox, tmp_path: Path
    ) -> None:
        broker, glances = FakeBroker(), FakeTime()
        courier = OutboxRelay(outbox, broker, scan_sleep=glances.sleep)
        await courier.start()
        await (await courier.submit(numbered(1)))
        dead = new_entry(numbered(2))
        Outbox(tmp_path / "outbox", sync=False).put(dead)
        os.utime(tmp_path / "outbox" / f"{dead.name}.json", (0, 0))
        await until(lambda: glances.next_wake)
        glances.advance(1)
        await until(lambda: len(broker.taken) == 2)
        assert await courier.stop(1) == 0

    async def test_a_newer_one_of_another_receiver_under_our_hands(
        self, outbox: Outbox, tmp_path: Path
    ) -> None:
        broker = FakeBroker()
        broker.open.clear()
        async with running(outbox, broker) as courier:
            older = await courier.submit(numbered(1, 10))
            await broker.arrived.wait()
            Outbox(tmp_path / "outbox", sync=False).put(new_entry(numbered(1, 11)))
            broker.open.set()
            await older
            await until(lambda: len(broker.taken) == 2)
            await until(lambda: courier.depth == 0)
        assert broker.taken == [("1.2.826.1", 10), ("1.2.826.1", 11)]
        assert files(tmp_path) == []

    async def test_attempts_are_counted(self, outbox: Outbox, tmp_path: Path) -> None:
        broker, time = FakeBroker(), FakeTime()
        broker.down = True
        async with running(outbox, broker, time) as courier:
            settled = await courier.submit(numbered(1))
            for attempt in (1, 2):
                await until(lambda: broker.attempts == attempt and time.next_wake)  # noqa: B023
                broker.down, broker.refuses = attempt < 2, {"1.2.826.1"}
                time.advance(time.next_wake or 0)
            assert not await settled
            assert not courier._attempts
        (path,) = (tmp_path / "outbox").iterdir()
        refusal = json.loads(path.read_bytes())["refusal"]
        assert (refusal["attempts"], refusal["reason"]) == (3, "400")


class SickDisk(Outbox):
    """Fails the next writes as told; or hangs."""

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


class TestSickDisk:
    async def test_a_full_disk_is_tried_until_it_is_not(self, tmp_path: Path) -> None:
        outbox, broker, time = SickDisk(tmp_path / "outbox"), FakeBroker(), FakeTime()
        outbox.failures = [OSError(errno.ENOSPC, "full") for _ in range(3)]
        async with running(outbox, broker, time, in_flight=1) as courier:
            submits = [asyncio.create_task(courier.submit(numbered(n))) for n in range(4)]
            for _ in range(3):
                await until(lambda: time.next_wake)
                assert courier.depth == 4
                assert not any(submit.done() for submit in submits)
                time.advance(time.next_wake or 0)
            for submit in submits:
                await (await submit)
        assert [uid[-1] for uid, _ in broker.taken] == ["0", "1", "2", "3"]

    async def test_hung_storage_does_not_stall_the_loop(self, tmp_path: Path) -> None:
        outbox, broker = SickDisk(tmp_path / "outbox"), FakeBroker()
        outbox.healthy.clear()
        async with running(outbox, broker) as courier:
            submit = asyncio.create_task(courier.submit(numbered(1)))
            beats = 0
            while beats < 20:
                await asyncio.sleep(0.001)
                beats += 1
            assert not submit.done()
            outbox.healthy.set()
            await (await submit)

    async def test_a_caller_that_gives_up_does_not_take_the_write_with_it(
        self, tmp_path: Path
    ) -> None:
        outbox, broker = SickDisk(tmp_path / "outbox"), FakeBroker()
        outbox.healthy.clear()
        async with running(outbox, broker) as courier:
            submit = asyncio.create_task(courier.submit(numbered(1)))
            await until(lambda: courier.depth == 1)
            submit.cancel()
            outbox.healthy.set()
            await until(lambda: broker.taken)
            assert submit.cancelled()

    async def test_one_that_can_never_be_written_says_so_and_blocks_nobody(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        outbox, broker = SickDisk(tmp_path / "outbox"), FakeBroker()
        async with running(outbox, broker) as courier:
            with pytest.raises(TypeError):
                await courier.submit(Registration(numbered(1).series, object()))  # type: ignore[arg-type]
            await (await courier.submit(numbered(2)))
