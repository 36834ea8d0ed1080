"""Registration by instance over HTTP: eager, at completion, in outages (decisions 40 to 43)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from oxidicom.notify import cube_eager as eager_module
from oxidicom.notify.cube_eager import EagerRegistrar
from oxidicom.notify.cube_http import CubeClient, CubeUnavailableError, Retry
from oxidicom.notify.cube_instances import InstanceRegistrar, run_concurrently
from oxidicom.notify.cube_publishers import InstancePublisher, association_uuid
from oxidicom.notify.cube_registered_files import RegisteredFiles
from oxidicom.notify.outbox_relay import OutboxRelay
from oxidicom.notify.outbox_store import Outbox
from oxidicom.notify.publisher import RegistrationRefusedError
from oxidicom.observers import (
    HttpRegistration,
    HttpSeriesRegistration,
    Observer,
    TraceContext,
)
from oxidicom.ports import Registration, SeriesInfo, SeriesKey
from oxidicom.store.series_files import LocalSeriesFiles
from tests.support.fake_time import FakeTime, until
from tests.unit.test_cube_bodies import FOLDER
from tests.unit.test_cube_bodies import series as series_info

pytestmark = pytest.mark.both_loops

ULID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
UUID = "01563e3a-b5d3-d676-4c61-efb99302bd5b"
TASK = "11111111-2222-3333-4444-555555555555"
ABOUT = f"SERVICES/PACS/org.fnndsc.oxidicom/{FOLDER}/{UUID}"
UNKNOWN = f"{ABOUT}/NumberOfSeriesRelatedInstances=unknown"


class FakeClient(CubeClient):
    """A client that accepts, fails or refuses, and records the paths."""

    def __init__(self) -> None:
        super().__init__("http://cube/api/v1/", "chris", "secret")
        self.asked: list[str] = []
        self.traceparents: list[str | None] = []
        self.taken: list[str] = []
        self.max_asked = 0
        self.down = False
        self.chokes_on = ""
        self.refuses = ""
        self.open = asyncio.Event()
        self.open.set()
        self.before: Callable[[str], None] = lambda path: None
        self._in_progress = 0

    async def register(
        self,
        resource: str,
        body: Mapping[str, str | int | None],
        *,
        attempts: int | None = None,
        retries: list[Retry] | None = None,
        traceparent: str | None = None,
    ) -> None:
        path = str(body["path"])
        self.asked.append(path)
        self.traceparents.append(traceparent)
        self._in_progress += 1
        self.max_asked = max(self.max_asked, self._in_progress)
        try:
            await self.open.wait()
            await asyncio.sleep(0)
            self.before(path)
            if self.down or (self.chokes_on and self.chokes_on in path):
                raise CubeUnavailableError("CUBE answers 503")
            if self.refuses and self.refuses in path:
                raise RegistrationRefusedError("CUBE answers 400")
            self.taken.append(path)
        finally:
            self._in_progress -= 1


class Spans(Observer, TraceContext):
    def __init__(self) -> None:
        self.registrations: list[HttpRegistration] = []
        self.ends: list[tuple[str | None, str, str | None]] = []

    def begin_http_registration(self, association_id: str | None, started_ns: int) -> str | None:
        return f"traceparent of {association_id} at {started_ns}"

    def http_registration_ended(self, registration: HttpRegistration) -> None:
        self.registrations.append(registration)

    def http_series_registration_ended(self, registration: HttpSeriesRegistration) -> None:
        ended = registration
        self.ends.append((ended.association_id, ended.association_uuid, ended.error))


class Bench:
    def __init__(self, root: Path, max_files: int = 1000) -> None:
        self.root = root
        self.client = FakeClient()
        self.spans = Spans()
        self.registered = RegisteredFiles(max_files)
        self.fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        self.registrar = InstanceRegistrar(
            self.client,
            LocalSeriesFiles(self.fd, sync=False),
            self.registered,
            self.spans,
            self.spans,
        )
        self.time = FakeTime()
        self.expected: dict[SeriesKey, int] = {}
        self.eager = EagerRegistrar(
            self.registrar,
            self.expected.get,
            max_concurrent=2,
            clock=self.time.clock,
            sleep=self.time.sleep,
        )
        self.publisher = InstancePublisher(
            self.registrar, max_concurrent=2, on_begin=self.eager.drop
        )

    def store(self, *names: str, folder: str = FOLDER) -> list[str]:
        (self.root / folder).mkdir(parents=True, exist_ok=True)
        for name in names:
            (self.root / folder / name).write_bytes(b"x")
        return [f"{folder}/{name}" for name in names]

    async def publish(self, registration: Registration) -> None:
        await self.publisher.publish(registration, TASK)

    async def close(self) -> None:
        await self.eager.stop()
        await self.publisher.close()
        os.close(self.fd)


@pytest_asyncio.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    await bench.close()


def registration(**changes: Any) -> Registration:
    return Registration(series_info(), 3, **{"attempted": 4, "association_id": ULID, **changes})


def numbered(number: int) -> SeriesInfo:
    return series_info(series_instance_uid=f"9.{number}", path=f"SERVICES/PACS/P/{number}")


class TestPublication:
    async def test_every_instance_is_registered_and_then_the_count(self, bench: Bench) -> None:
        paths = bench.store("0001-1.1.dcm", "0002-1.2.dcm", "0003-1.3.dcm")
        bench.store("notes.txt")
        await bench.publish(registration(expected=7))
        assert bench.client.asked[0] == paths[0]
        assert bench.client.asked[1] == f"{ABOUT}/NumberOfSeriesRelatedInstances=7"
        assert sorted(bench.client.asked[2:4]) == paths[1:]
        assert bench.client.asked[4:] == [f"{ABOUT}/OxidicomAttemptedPushCount=4"]
        assert bench.client.max_asked == 2
        assert len(bench.registered) == 0, "nothing is remembered of what is complete"
        for path in bench.client.asked[1], bench.client.asked[4]:
            assert (bench.root / path).read_bytes() == b""

    async def test_a_registration_without_association_uses_its_task_id(self, bench: Bench) -> None:
        """An entry of an older version: neither counts nor association."""
        bench.store("0001-1.1.dcm")
        await bench.publish(Registration(series_info(), 1))
        assert bench.client.asked[1:] == [
            f"{ABOUT.replace(UUID, TASK)}/NumberOfSeriesRelatedInstances=unknown",
            f"{ABOUT.replace(UUID, TASK)}/OxidicomAttemptedPushCount=1",
        ]
        assert association_uuid(registration(association_id="no ULID"), TASK) == TASK

    async def test_after_an_outage_only_missing_instances_are_registered(
        self, bench: Bench
    ) -> None:
        paths = bench.store(*(f"000{n}-1.{n}.dcm" for n in range(1, 7)))
        bench.client.chokes_on = "/0003-"
        with pytest.raises(CubeUnavailableError):
            await bench.publish(registration())
        before = list(bench.client.taken)
        assert paths[2] not in before
        with pytest.raises(CubeUnavailableError):
            await bench.publish(registration())
        assert {*paths} - {*bench.client.taken} == {paths[2]}, "it does not hold up the others"
        bench.client.chokes_on = ""
        await bench.publish(registration())
        assert len(bench.client.taken) == len(set(bench.client.taken)) == 8
        assert bench.client.taken[-2:] == [paths[2], f"{ABOUT}/OxidicomAttemptedPushCount=4"]

    async def test_after_a_restart_everything_is_registered_with_the_same_metadata(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        bench.store("0001-1.1.dcm")
        bench.client.chokes_on = "Attempted"
        with pytest.raises(CubeUnavailableError):
            await bench.publish(registration(expected=7))
        again = Bench(tmp_path)
        await again.publish(registration(expected=None, attempted=1))
        assert again.client.taken == [
            f"{FOLDER}/0001-1.1.dcm",
            f"{ABOUT}/NumberOfSeriesRelatedInstances=7",
            f"{ABOUT}/OxidicomAttemptedPushCount=4",
        ]
        await again.close()

    async def test_a_refused_instance_does_not_block_the_others(self, bench: Bench) -> None:
        paths = bench.store("0001-1.1.dcm", "0002-1.2.dcm", "0003-1.3.dcm")
        bench.client.refuses = "0001-"
        with pytest.raises(RegistrationRefusedError, match="1 of 3 instances: CUBE answers 400"):
            await bench.publish(registration())
        assert sorted(bench.client.taken) == sorted(
            [*paths[1:], UNKNOWN, f"{ABOUT}/OxidicomAttemptedPushCount=4"]
        )
        assert len(bench.registered) == 0

    async def test_refused_metadata_does_not_block_the_instances(self, bench: Bench) -> None:
        paths = bench.store("0001-1.1.dcm", "0002-1.2.dcm")
        bench.client.refuses = "org.fnndsc"
        with pytest.raises(RegistrationRefusedError, match="custom metadata"):
            await bench.publish(registration())
        assert sorted(bench.client.taken) == paths

    async def test_an_instance_that_vanishes_meanwhile_is_skipped(self, bench: Bench) -> None:
        paths = bench.store("0001-1.1.dcm", "0002-1.2.dcm")

        def vanish(path: str) -> None:
            if path == paths[1]:
                (bench.root / path).unlink()

        bench.client.before = vanish
        bench.client.refuses = "0002-"
        await bench.publish(registration())
        assert bench.client.taken[0] == paths[0]

    async def test_a_missing_folder_is_a_refusal(self, bench: Bench) -> None:
        with pytest.raises(RegistrationRefusedError, match="no instance is in the series' folder"):
            await bench.publish(registration())
        assert bench.client.asked == []

    async def test_a_storage_error_is_reported_without_file_names(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(shelf: LocalSeriesFiles, path: str) -> list[str]:
            raise OSError(5, "Input/output error", "P1-Doe")

        monkeypatch.setattr(LocalSeriesFiles, "names", fail)
        with pytest.raises(
            CubeUnavailableError, match="the storage fails: OSError: EIO"
        ) as failure:
            await bench.publish(registration())
        assert "Doe" not in str(failure.value)

    async def test_metadata_with_a_path_too_long_for_cube_are_left_out(
        self, bench: Bench, caplog: pytest.LogCaptureFixture
    ) -> None:
        deep = "SERVICES/PACS/" + "/".join("x" * 240 for _ in range(4))
        bench.store("0001-1.1.dcm", folder=deep)
        series = series_info(path=deep)
        await bench.publish(Registration(series, 1, 1, None, ULID))
        assert bench.client.taken == [f"{deep}/0001-1.1.dcm"]
        assert "custom metadata omitted" in caplog.text

    async def test_each_registration_is_reported_to_the_observer(self, bench: Bench) -> None:
        bench.store("0001-1.1.dcm")
        await bench.publish(registration(expected=7))
        bench.client.down = True
        with pytest.raises(CubeUnavailableError):
            await bench.publish(registration())
        assert [(each.metadata, each.error, each.file) for each in bench.spans.registrations] == [
            (None, None, None),
            (("NumberOfSeriesRelatedInstances", "7"), None, None),
            (("OxidicomAttemptedPushCount", "4"), None, None),
            (None, "CubeUnavailableError: CUBE answers 503", None),
        ]
        assert {each.url for each in bench.spans.registrations} == {"http://cube/api/v1/pacsfiles/"}
        assert bench.spans.ends == [
            (ULID, UUID, None),
            (ULID, UUID, "CubeUnavailableError: CUBE answers 503"),
        ]

    async def test_each_request_carries_the_trace_context_of_its_span(self, bench: Bench) -> None:
        bench.store("0001-1.1.dcm")
        await bench.publish(registration())
        assert bench.client.traceparents == [each.traceparent for each in bench.spans.registrations]
        assert bench.client.traceparents == [
            f"traceparent of {ULID} at {each.started_ns}" for each in bench.spans.registrations
        ]

    async def test_file_paths_are_reported_where_patient_data_are_allowed(
        self, bench: Bench
    ) -> None:
        bench.store("0001-1.1.dcm")
        shelf = LocalSeriesFiles(bench.fd, sync=False)
        shown = InstanceRegistrar(
            bench.client, shelf, bench.registered, bench.spans, bench.spans, show_files=True
        )
        await shown.register_instance(registration(), "0001-1.1.dcm")
        await shown.close()
        assert [each.file for each in bench.spans.registrations] == [f"{FOLDER}/0001-1.1.dcm"]


class TestEagerRegistration:
    async def test_instances_are_registered_once(self, bench: Bench) -> None:
        bench.eager.start()
        paths = bench.store("0001-1.1.dcm", "0002-1.2.dcm")
        bench.eager.stored(series_info(), ULID)
        await until(lambda: len(bench.client.taken) == 2)
        paths += bench.store("0003-1.3.dcm")
        bench.eager.stored(series_info(), ULID)
        await until(lambda: bench.time.next_wake is not None)
        assert len(bench.client.asked) == 2, "a folder is not looked at twice a second"
        bench.time.advance(1.01)
        await until(lambda: len(bench.client.taken) == 3)
        await bench.publish(registration())
        assert sorted(bench.client.asked[:3]) == paths
        assert bench.client.asked[3:] == [UNKNOWN, f"{ABOUT}/OxidicomAttemptedPushCount=4"]

    async def test_a_published_series_is_not_registered_eagerly(self, bench: Bench) -> None:
        bench.eager.start()
        bench.store("0001-1.1.dcm")
        bench.eager.stored(series_info(), ULID)
        await until(lambda: len(bench.client.taken) == 1)
        bench.store("0002-1.2.dcm")
        bench.eager.stored(series_info(), ULID)
        await bench.publish(registration())
        other = numbered(1)
        path = bench.store("0001-2.1.dcm", folder=other.path)[0]
        bench.time.advance(1.01)
        bench.eager.stored(other, ULID)
        await until(lambda: path in bench.client.taken)
        assert len(bench.client.asked) == 5

    async def test_a_known_expected_count_follows_the_first_instance(self, bench: Bench) -> None:
        key = series_info().key
        bench.eager.start()
        bench.store("0001-1.1.dcm")
        bench.eager.stored(series_info(), ULID)
        await until(lambda: len(bench.client.taken) == 1)
        bench.expected[key] = 5
        bench.store("0002-1.2.dcm", "0003-1.3.dcm")
        bench.eager.stored(series_info(), ULID)
        await until(lambda: bench.time.next_wake is not None)
        bench.time.advance(1.01)
        expected_path = f"{ABOUT}/NumberOfSeriesRelatedInstances=5"
        await until(lambda: len(bench.client.taken) == 4)
        assert expected_path in bench.client.taken
        await bench.publish(registration(expected=None))
        assert bench.client.asked[4:] == [f"{ABOUT}/OxidicomAttemptedPushCount=4"]

    async def test_the_publication_waits_for_an_eager_registration_in_progress(
        self, bench: Bench
    ) -> None:
        bench.eager.start()
        bench.client.open.clear()
        bench.store("0001-1.1.dcm", "0002-1.2.dcm", "0003-1.3.dcm", "0004-1.4.dcm")
        bench.eager.stored(series_info(), ULID)
        await until(lambda: len(bench.client.asked) == 2)
        publication = asyncio.create_task(bench.publish(registration()))
        await asyncio.sleep(0)
        bench.client.open.set()
        await publication
        instances = [path for path in bench.client.asked if path.endswith(".dcm")]
        assert len(instances) == len(set(instances)) == 4

    async def test_an_eager_registration_that_fails_is_left_to_the_publication(
        self, bench: Bench
    ) -> None:
        bench.eager.start()
        bench.client.down = True
        paths = bench.store("0001-1.1.dcm", "0002-1.2.dcm")
        bench.eager.stored(series_info(), ULID)
        await until(lambda: bench.time.next_wake is not None)
        assert bench.time.next_wake == eager_module.EAGER_FIRST_PAUSE_S
        bench.client.down = False
        await bench.publish(registration())
        assert sorted(path for path in bench.client.taken if path.endswith(".dcm")) == paths

    async def test_pauses_grow_while_cube_fails(self, bench: Bench) -> None:
        bench.eager.start()
        bench.client.down = True
        pauses = []
        for number in range(8):
            series = numbered(number)
            bench.store("0001-1.1.dcm", "0002-1.2.dcm", "0003-1.3.dcm", folder=series.path)
            bench.eager.stored(series, ULID)
            await until(lambda: bench.time.next_wake is not None)
            pauses.append(bench.time.next_wake)
            bench.time.advance(bench.time.next_wake or 0)
        assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]
        assert len(bench.client.asked) <= 16, "two at once, and no third after one failed"

    async def test_memory_does_not_grow_during_an_outage(self, bench: Bench) -> None:
        bench.eager.start()
        bench.client.down = True
        for number in range(3 * eager_module.MAX_QUEUED_SERIES):
            bench.eager.stored(numbered(number), ULID)
        assert len(bench.eager._queued) == eager_module.MAX_QUEUED_SERIES
        assert len(bench.registered) < 10

    async def test_an_eager_refusal_is_left_to_the_publication(self, bench: Bench) -> None:
        bench.eager.start()
        bench.client.refuses = "0001-"
        bench.store("0001-1.1.dcm", "0002-1.2.dcm")
        bench.eager.stored(series_info(), ULID)
        await until(lambda: len(bench.client.asked) == 2)
        bench.store("0003-1.3.dcm")
        bench.eager.stored(series_info(), ULID)
        await until(lambda: bench.time.next_wake is not None)
        bench.time.advance(1.01)
        await until(lambda: len(bench.client.asked) == 3)
        with pytest.raises(RegistrationRefusedError):
            await bench.publish(registration())

    async def test_series_with_many_instances_take_turns(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(eager_module, "MAX_INSTANCES_A_TURN", 3)
        bench.eager.start()
        bench.store(*(f"000{n}-1.{n}.dcm" for n in range(8)))
        other = numbered(1)
        bench.store("0001-2.1.dcm", folder=other.path)
        bench.eager.stored(series_info(), ULID)
        bench.eager.stored(other, ULID)
        await until(lambda: len(bench.client.taken) == 4 and bench.time.next_wake is not None)
        assert f"{other.path}/0001-2.1.dcm" in bench.client.taken
        for count in (7, 9):
            await until(lambda: bench.time.next_wake is not None)
            bench.time.advance(1.01)
            await until(lambda count=count: len(bench.client.taken) == count)  # type: ignore[misc]


class TestRegisteredFiles:
    def test_the_oldest_series_is_forgotten_first(self) -> None:
        files = RegisteredFiles(max_files=10)
        for number in range(4):
            for name in range(3):
                files.add(SeriesKey("P", str(number)), str(name), registered=True)
                assert len(files) <= 10
        assert files.get(SeriesKey("P", "0")) is None
        assert files.get(SeriesKey("P", "1")) is None
        assert files.series(SeriesKey("P", "3")).registered == {"0", "1", "2"}

    def test_one_series_alone_is_bounded_too(self) -> None:
        files = RegisteredFiles(max_files=10)
        for name in range(1000):
            files.add(SeriesKey("P", "1"), str(name), registered=name % 2 == 0)
            assert len(files) <= 10

    def test_series_without_files_are_bounded_too(self) -> None:
        files = RegisteredFiles(max_files=10)
        for number in range(1000):
            files.series(SeriesKey("P", str(number)))
            assert len(files) <= 10

    def test_a_series_in_publication_is_not_forgotten(self) -> None:
        files = RegisteredFiles(max_files=10)
        first = files.series(SeriesKey("P", "1"))
        first.publishing = 1
        for number in range(2, 100):
            files.add(SeriesKey("P", str(number)), "name", registered=True)
        assert files.series(SeriesKey("P", "1")) is first

    def test_a_success_after_a_failure_counts_once(self) -> None:
        files = RegisteredFiles()
        key = SeriesKey("P", "1")
        files.add(key, "name", registered=False)
        files.add(key, "name", registered=True)
        assert len(files) == 2
        files.forget(key)
        files.forget(key)
        assert len(files) == 0


class TestRunConcurrently:
    async def test_the_first_error_is_raised_after_the_calls_in_progress(self) -> None:
        done: list[int] = []

        async def work(item: int) -> None:
            await asyncio.sleep(0)
            if item == 2:
                raise ValueError(item)
            await asyncio.sleep(0.01)
            done.append(item)

        with pytest.raises(ValueError, match="2"):
            await run_concurrently(range(100), work, 3)
        assert done == [0, 1]


async def test_an_outage_loses_nothing_through_relay_and_outbox(tmp_path: Path) -> None:
    """Four attempts fail; then every instance of fifty series is registered exactly once."""
    bench = Bench(tmp_path, max_files=100)
    bench.client.down = True
    outbox = Outbox(tmp_path / ".outbox", sync=False)
    relay = OutboxRelay(
        outbox, bench.publisher, max_in_flight=2, clock=bench.time.clock, sleep=bench.time.sleep
    )
    await relay.start()
    outcomes, paths = [], []
    for number in range(50):
        series = numbered(number)
        paths += bench.store(*(f"000{n}-1.{n}.dcm" for n in range(3)), folder=series.path)
        outcomes.append(await relay.submit(Registration(series, 3, 3, None, ULID)))
    for _ in range(4):
        await until(lambda: bench.time.next_wake is not None)
        bench.time.advance(bench.time.next_wake or 0)
    assert outbox.depth() == 50
    assert len(bench.registered) <= 100
    bench.client.down = False
    async with asyncio.timeout(20):
        while not all(future.done() for future in outcomes):
            if bench.time.next_wake is not None:
                bench.time.advance(bench.time.next_wake)
            await asyncio.sleep(0.001)
    assert outbox.depth() == 0
    instances = [path for path in bench.client.taken if path.endswith(".dcm")]
    assert sorted(instances) == sorted(paths)
    assert len(bench.client.taken) == 150 + 100
    await relay.stop(1)
    os.close(bench.fd)
