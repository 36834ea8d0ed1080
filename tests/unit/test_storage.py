"""Storage of instances, inline and on writer threads, by the same rules (decisions 20 to 27)."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import resource
import shutil
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import pydicom
import pytest

from oxidicom._writer import Gather, PartFile
from oxidicom.constants import Encoding
from oxidicom.ports import (
    AssociationContext,
    InstanceRefused,
    InstanceStored,
    Report,
    SeriesInfo,
    SeriesKey,
    StoreOutcome,
    StoreRequest,
)
from oxidicom.store.executors import StorageExecutors
from oxidicom.store.quarantine import Quarantine
from oxidicom.store.sink import StorageSink
from oxidicom.store.storage import Storage
from oxidicom.store.write_policy import WritePolicy
from tests.support.data import Instance, new_uid
from tests.support.raw_peer import DEFLATED, EXPLICIT, IMPLICIT, MR_IMAGE_STORAGE

Mode = Literal["auto", "inline", "threads"]

BLOCK = 20_000
"""Size of a receive buffer in these tests, in bytes: more than what is copied."""


class Owner:
    """The association: counts the buffers that the sink keeps, and overwrites released ones."""

    def __init__(self) -> None:
        self.outcomes: list[StoreOutcome] = []
        self.kept: list[bytearray] = []
        self.releases = 0
        self._changed = asyncio.Event()

    def instance_done(self, outcome: StoreOutcome) -> None:
        self.outcomes.append(outcome)
        self._changed.set()

    def buffer_released(self, buffer: bytearray) -> None:
        self.not_kept(buffer)
        self.releases += 1
        self._changed.set()

    def not_kept(self, buffer: bytearray) -> None:
        """Take back a buffer that may be received into again."""
        for index, each in enumerate(self.kept):
            if each is buffer:
                del self.kept[index]
                spoil(buffer)
                return
        raise AssertionError("a buffer was released that was not kept")

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def outcome(self, count: int = 1) -> StoreOutcome:
        """Return outcome number `count`, once all buffers are released."""
        await self.until(lambda: len(self.outcomes) >= count and not self.kept)
        return self.outcomes[count - 1]


def spoil(buffer: bytearray) -> None:
    buffer[:] = b"\xee" * len(buffer)


class RecordingJournal:
    def __init__(self, order: list[str]) -> None:
        self.order = order
        self.entries: list[tuple[str, str]] = []
        self.removed: list[tuple[str, SeriesKey]] = []
        self.error: Exception | None = None

    def enter(self, association_id: str, series: SeriesInfo) -> None:
        if self.error is not None:
            raise self.error
        self.entries.append((association_id, series.path))
        self.order.append("journal")

    def remove(self, key: SeriesKey, associations: Iterable[str]) -> None:
        self.removed += [(association_id, key) for association_id in associations]


class FaultyPart:
    """A part file with a write that fails before it reaches the real one."""

    def __init__(self, part: PartFile, fault: Callable[[int], None]) -> None:
        self._part = part
        self._fault = fault
        self._writes = 0
        self.placed = False
        self.unsynced = False
        self.slowest_ns = 0

    def write(self, gather: Gather) -> None:
        self._writes += 1
        self._fault(self._writes)
        self._part.write(gather)

    def place(self, *arguments: Any) -> bool:
        self.placed = True
        return self._part.place(*arguments)

    def discard(self) -> None:
        self._part.discard()


class Bench:
    def __init__(self, root: Path, mode: Mode, **settings: Any) -> None:
        self.root = root
        self.order: list[str] = []
        self.journal = RecordingJournal(self.order)
        self.reports: list[Report] = []
        self.bugs: list[BaseException] = []
        self.policy = WritePolicy(mode, local=True, fsync=settings.get("fsync", False))
        self.executors = StorageExecutors(
            asyncio.get_running_loop(), self.policy, 2, time.monotonic
        )
        self.storage = Storage(
            root,
            executors=self.executors,
            journal=self.journal,
            reports=self._report,
            clock=time.monotonic,
            on_bug=self.bugs.append,
            **settings,
        )
        self.owner = Owner()

    def _report(self, report: Report) -> None:
        self.reports.append(report)
        self.order.append(type(report).__name__)

    def begin(
        self,
        instance: Instance,
        transfer_syntax: str = EXPLICIT,
        association: str = "A",
        sop_class: str | None = None,
        sop_instance: str | None = None,
        aet: str = "AET",
        owner: Owner | None = None,
    ) -> StorageSink:
        encoding = {
            IMPLICIT: Encoding.IMPLICIT_LE,
            EXPLICIT: Encoding.EXPLICIT_LE,
            DEFLATED: Encoding.DEFLATED,
        }[transfer_syntax]
        request = StoreRequest(
            1,
            7,
            sop_class or instance.sop_class,
            sop_instance or instance.sop_instance,
            transfer_syntax,
            encoding,
        )
        return self.storage.begin(
            AssociationContext(association, aet), request, owner or self.owner
        )

    def feed(self, sink: StorageSink, data: bytes, *, last: bool = True, block: int = BLOCK) -> int:
        """Feed an instance as an association does; return the number of buffers that were kept."""
        kept = 0
        for start in range(0, len(data), block):
            buffer = bytearray(data[start : start + block])
            sink.feed(buffer, 0, len(buffer))
            self.owner.kept.append(buffer)  # before the sink may release it
            end = last and start + block >= len(data)
            if sink.finish(buffer) if end else sink.flush(buffer):
                self.owner.not_kept(buffer)
            else:
                kept += 1
        return kept

    async def store(self, instance: Instance, **options: Any) -> StoreOutcome:
        transfer_syntax = options.get("transfer_syntax", EXPLICIT)
        data = options.pop("data", None) or instance.encode(
            transfer_syntax, options.pop("omit", ())
        )
        count = len(self.owner.outcomes) + 1
        self.feed(self.begin(instance, **options), data)
        return await self.owner.outcome(count)

    def files(self) -> list[str]:
        return sorted(
            str(path.relative_to(self.root))
            for path in (self.root / "SERVICES").rglob("*")
            if path.is_file()
        )

    @property
    def temporary(self) -> list[str]:
        return os.listdir(self.root / ".oxidicom/tmp")

    def stored(self) -> list[InstanceStored]:
        return [report for report in self.reports if isinstance(report, InstanceStored)]

    def refused(self) -> list[InstanceRefused]:
        return [report for report in self.reports if isinstance(report, InstanceRefused)]

    async def quiet(self) -> None:
        """Wait until every executor has run its jobs."""
        done = [asyncio.Event() for _ in range(2)]
        for event in done:
            self.executors.next_thread().run(lambda: None, lambda result, error, e=event: e.set())  # type: ignore[misc]
        for event in done:
            await event.wait()

    async def close(self) -> None:
        await asyncio.to_thread(self.executors.stop, 5)
        self.storage.close()


@pytest.fixture(params=["inline", "threads"])
def mode(request: pytest.FixtureRequest) -> Mode:
    value: Mode = request.param
    return value


@pytest.fixture
async def bench(tmp_path: Path, mode: Mode) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path, mode)
    yield bench
    await bench.quiet()
    assert bench.temporary == [], "a temporary file was left"
    assert bench.owner.kept == []
    assert bench.bugs == []
    assert all(not folder.pending for folder in bench.storage.folders._folders.values())
    await bench.close()


Make = Callable[..., Bench]


@pytest.fixture
async def make(tmp_path: Path, mode: Mode) -> AsyncIterator[Make]:
    """Make benches with other settings."""
    benches: list[Bench] = []

    def make(**settings: Any) -> Bench:
        settings.setdefault("mode", mode)
        benches.append(Bench(tmp_path, **settings))
        return benches[-1]

    yield make
    for bench in benches:
        await bench.close()


# ---- success -----------------------------------------------------------------------------


@pytest.mark.parametrize("transfer_syntax", [IMPLICIT, EXPLICIT, DEFLATED])
@pytest.mark.parametrize("pixels", [0, 512, BLOCK, 40 * BLOCK])
async def test_the_data_set_is_on_disk_byte_for_byte(
    bench: Bench, transfer_syntax: str, pixels: int
) -> None:
    instance = Instance(pixels=pixels)
    data = instance.encode(transfer_syntax)
    outcome = await bench.store(instance, transfer_syntax=transfer_syntax, aet="GE MR 7")
    assert (outcome.status, outcome.comment, outcome.offending) == (0, None, None)
    (file,) = bench.files()
    written = (bench.root / file).read_bytes()
    assert written.endswith(data)
    assert written[:132] == bytes(128) + b"DICM"
    meta = pydicom.dcmread(bench.root / file, stop_before_pixels=True).file_meta
    assert len(written) == 132 + 12 + meta.FileMetaInformationGroupLength + len(data)
    assert meta.MediaStorageSOPClassUID == instance.sop_class
    assert meta.MediaStorageSOPInstanceUID == instance.sop_instance
    assert meta.TransferSyntaxUID == transfer_syntax
    assert meta.SourceApplicationEntityTitle == "GE MR 7"
    (report,) = bench.stored()
    assert report.size == len(data)
    assert report.sop_instance_uid == instance.sop_instance
    assert report.series.path == os.path.dirname(file)
    assert 0 <= report.seconds < 10


@pytest.mark.parametrize("block", [1, 7, 255, 16 * 1024, 16 * 1024 + 1])
async def test_the_file_does_not_depend_on_cuts(bench: Bench, block: int) -> None:
    instance = Instance(pixels=2 * block if block > 255 else 512)
    data = instance.encode(EXPLICIT)
    bench.feed(bench.begin(instance), data, block=block)
    assert (await bench.owner.outcome()).status == 0
    (file,) = bench.files()
    assert (bench.root / file).read_bytes().endswith(data)


async def test_many_fragments_of_one_buffer_are_stored(bench: Bench) -> None:
    instance = Instance(pixels=8192)
    data = instance.encode(EXPLICIT)
    sink = bench.begin(instance)
    buffer = bytearray(data)
    for start in range(0, len(data), 3):
        sink.feed(buffer, start, min(start + 3, len(data)))
    bench.owner.kept.append(buffer)
    if sink.finish(buffer):
        bench.owner.not_kept(buffer)
    assert (await bench.owner.outcome()).status == 0
    (file,) = bench.files()
    assert (bench.root / file).read_bytes().endswith(data)


async def test_buffers_are_kept_by_threads_only_and_released_once(bench: Bench, mode: Mode) -> None:
    instance = Instance(pixels=10 * BLOCK)
    data = instance.encode(EXPLICIT)
    kept = bench.feed(bench.begin(instance), data)
    assert kept == (0 if mode == "inline" else len(data) // BLOCK)
    assert (await bench.owner.outcome()).status == 0
    assert bench.owner.releases == kept


async def test_journal_and_file_come_before_success(bench: Bench) -> None:
    """The journal entry is written once for each association and series."""

    class Watching(Owner):
        def instance_done(self, outcome: StoreOutcome) -> None:
            bench.order.append(f"answer {len(bench.files())}")
            super().instance_done(outcome)

    bench.owner = Watching()
    series = new_uid()
    for number in range(3):
        await bench.store(Instance(series=series, number=number))
    assert bench.order == [
        *("journal", "InstanceStored", "answer 1"),
        *("InstanceStored", "answer 2"),
        *("InstanceStored", "answer 3"),
    ]
    await bench.store(Instance(series=series, number=9), association="B")
    await bench.store(Instance(number=1), association="B")
    path = bench.stored()[0].series.path
    assert bench.journal.entries[:2] == [("A", path), ("B", path)]
    assert len(bench.journal.entries) == 3


async def test_many_instances_are_stored_at_once(bench: Bench) -> None:
    series = new_uid()
    instances = [Instance(series=series, number=i, pixels=3 * BLOCK) for i in range(40)]
    sinks = [(bench.begin(each), each.encode(EXPLICIT)) for each in instances]
    for sink, data in sinks:
        bench.feed(sink, data)
    await bench.owner.outcome(40)
    assert {outcome.status for outcome in bench.owner.outcomes} == {0}
    assert len(bench.files()) == 40
    for file, (_, data) in zip(bench.files(), sinks, strict=True):
        assert (bench.root / file).read_bytes().endswith(data)


async def test_everything_is_synced_in_order(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The parents of new folders before the file has its name, the journal before Success."""
    bench = make(fsync=True)
    synced: list[str] = []
    fsync = os.fsync

    def noted(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        assert not bench.files()
        assert bench.order == []
        fsync(fd)

    monkeypatch.setattr(os, "fsync", noted)
    assert (await bench.store(Instance())).status == 0
    folder = tmp_path / bench.stored()[0].series.path
    parents = [str(each) for each in folder.parents if each.is_relative_to(tmp_path)]
    assert sorted(synced) == sorted(parents)
    assert bench.order == ["journal", "InstanceStored"]


# ---- refusals ----------------------------------------------------------------------------


async def test_a_uid_that_differs_from_the_command_is_refused(bench: Bench) -> None:
    outcome = await bench.store(Instance(), sop_class=MR_IMAGE_STORAGE)
    assert (outcome.status, outcome.offending) == (0xA900, 0x00080016)
    outcome = await bench.store(Instance(), sop_instance="1.2.3.4")
    assert (outcome.status, outcome.offending) == (0xA900, 0x00080018)
    assert bench.files() == []
    assert bench.journal.entries == []
    assert [report.status for report in bench.refused()] == [0xA900, 0xA900]


@pytest.mark.parametrize(
    ("keyword", "tag"),
    [
        ("SOPClassUID", 0x00080016),
        ("SOPInstanceUID", 0x00080018),
        ("StudyDate", 0x00080020),
        ("PatientID", 0x00100020),
        ("StudyInstanceUID", 0x0020000D),
        ("SeriesInstanceUID", 0x0020000E),
    ],
)
@pytest.mark.parametrize("pixels", [0, 5 * BLOCK])
async def test_an_instance_without_a_required_element_is_refused(
    bench: Bench, keyword: str, tag: int, pixels: int
) -> None:
    instance = Instance(pixels=pixels)
    outcome = await bench.store(instance, omit=(keyword,))
    assert (outcome.status, outcome.offending) == (0xC000, tag)
    assert outcome.comment == f"Missing required tag: {keyword}"
    (report,) = bench.refused()
    assert report.error == f"DICOM file does not have the required tag: {keyword}"
    expected = None if keyword == "SeriesInstanceUID" else instance.series
    assert report.series_instance_uid == expected
    assert bench.files() == []


@pytest.mark.parametrize("length", [1, 100, 4 * BLOCK])
async def test_invalid_bytes_are_refused(bench: Bench, length: int) -> None:
    outcome = await bench.store(Instance(), data=b"\xff" * length)
    assert outcome.status == 0xC000
    assert outcome.comment is not None
    assert len(outcome.comment) <= 64
    assert bench.files() == []


async def test_an_instance_is_refused_with_too_little_free_space(make: Make) -> None:
    bench = make(min_free_space=2**60)
    for pixels in (0, 5 * BLOCK):
        # The first write says so, and no later one may go on behind its back.
        outcome = await bench.store(Instance(pixels=pixels))
        assert (outcome.status, outcome.comment) == (0xA700, "Too little free space")
    await bench.quiet()
    assert (bench.files(), bench.temporary, bench.journal.entries) == ([], [], [])
    bench.storage.min_free_space = 1
    assert (await bench.store(Instance())).status == 0


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system takes root")
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


async def test_an_instance_is_refused_on_a_full_disk(full_disk: Path, mode: Mode) -> None:
    bench = Bench(full_disk, mode)
    outcome = await bench.store(Instance(pixels=100 * BLOCK))
    assert (outcome.status, outcome.comment) == (
        0xA700,
        "Could not write file: No space left on device",
    )
    await bench.quiet()
    assert (bench.files(), bench.temporary, bench.journal.entries) == ([], [], [])
    assert (await bench.store(Instance(pixels=10 * BLOCK))).status == 0
    await bench.close()


async def test_a_file_that_could_not_be_removed_is_removed_with_the_current_instance(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread may discard a refused instance after this one has begun."""
    temporary, place = bench.storage.temporary, bench.storage.place

    def discarded_meanwhile(*arguments: Any) -> None:
        place(*arguments)
        late = temporary.prefix + b"late.part"
        os.close(os.open(late, os.O_CREAT | os.O_WRONLY, dir_fd=temporary.fd))
        temporary.unremoved.append(late)

    monkeypatch.setattr(bench.storage, "place", discarded_meanwhile)
    assert (await bench.store(Instance())).status == 0
    await bench.quiet()
    assert bench.temporary == []


async def test_an_instance_is_refused_without_free_descriptors(bench: Bench) -> None:
    await bench.store(Instance())
    await bench.quiet()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    fillers = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
        while True:
            try:
                fillers.append(os.dup(0))
            except OSError:
                break
        outcome = await bench.store(Instance())
        # One is enough for the file, but not for its folder beside it: closed by then, it is.
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in fillers:
            os.close(fd)
    assert (outcome.status, outcome.comment) == (
        0xA700,
        "Could not write file: Too many open files",
    )
    assert len(bench.files()) == 1
    assert (await bench.store(Instance())).status == 0


async def test_an_instance_is_refused_if_its_journal_entry_fails(bench: Bench) -> None:
    instance = Instance(pixels=3 * BLOCK)
    for number, status in ((errno.ENOSPC, 0xA700), (errno.EIO, 0x0110), (errno.ENOENT, 0x0110)):
        bench.journal.error = OSError(number, os.strerror(number))
        assert (await bench.store(instance)).status == status
        assert bench.files() == []
    bench.journal.error = None
    assert (await bench.store(instance)).status == 0
    assert len(bench.journal.entries) == 1


async def test_a_bug_is_reported_once_and_the_instance_refused(bench: Bench) -> None:
    bug = KeyError("PATIENT NAME")
    bench.journal.error = bug
    outcome = await bench.store(Instance())
    assert (outcome.status, outcome.comment) == (0x0110, "Bug: KeyError")
    assert bench.bugs == [bug]
    bench.bugs.clear()


@pytest.mark.parametrize("failing", [1, 2, 5, 9])
@pytest.mark.parametrize("late", [False, True])
async def test_after_a_failed_write_nothing_is_placed(
    bench: Bench, failing: int, late: bool, mode: Mode
) -> None:
    """`late`: the last fragment arrives before the loop knows of the failure."""
    parts: list[FaultyPart] = []
    gate = threading.Event()
    original = bench.storage.temporary.part_file

    def fault(write: int) -> None:
        if mode == "threads" and late:
            assert gate.wait(10)
        if write == failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def faulty(header: bytes) -> Any:
        parts.append(FaultyPart(original(header), fault))
        return parts[-1]

    bench.storage.temporary.part_file = faulty  # type: ignore[method-assign]
    instance = Instance(pixels=9 * BLOCK + 100)
    data = instance.encode(EXPLICIT)
    sink = bench.begin(instance)
    bench.feed(sink, data[: 9 * BLOCK], last=False)
    if not late:
        await bench.owner.until(lambda: not bench.owner.kept)
    bench.feed(sink, data[9 * BLOCK :])
    gate.set()
    outcome = await bench.owner.outcome()
    assert (outcome.status, outcome.comment) == (0x0110, "Could not write file: Input/output error")
    await bench.quiet()
    assert not parts[0].placed
    assert bench.files() == []
    assert len(bench.refused()) == len(bench.owner.outcomes) == 1
    del sink, parts[:]


async def test_an_instance_that_cannot_be_written_leaves_no_journal_entry(bench: Bench) -> None:
    original = bench.storage.temporary.part_file

    def fault(write: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    bench.storage.temporary.part_file = lambda header: FaultyPart(original(header), fault)  # type: ignore[method-assign, assignment, return-value]
    assert (await bench.store(Instance())).status == 0xA700
    assert bench.journal.entries == []


async def test_the_rest_of_a_failed_instance_is_dropped(bench: Bench) -> None:
    """Memory does not grow, and nothing more is written."""
    sink = bench.begin(Instance())
    bench.feed(sink, b"\xff" * BLOCK, last=False)
    await bench.owner.until(lambda: not bench.owner.kept)
    assert bench.feed(sink, bytes(BLOCK), last=False) == 0
    before = len(gc.get_objects())
    for _ in range(50):
        assert bench.feed(sink, bytes(BLOCK), last=False) == 0
    assert sink._gather.size == 0
    assert len(gc.get_objects()) - before < 50
    assert bench.temporary == [] or bench.executors.policy.decide(0) is False
    bench.feed(sink, b"end")
    assert (await bench.owner.outcome()).status == 0xC000


async def test_a_removal_that_failed_late_is_retried_after_the_discard(bench: Bench) -> None:
    """No other instance may follow, so the retries of the next one are not enough."""
    temporary = bench.storage.temporary
    os.close(os.open("late.part", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=temporary.fd))
    sink = bench.begin(Instance())
    bench.feed(sink, bytes(100), last=False)
    temporary.unremoved.append(b"late.part")
    sink.discard()
    await bench.owner.until(lambda: not bench.owner.kept)
    await bench.quiet()
    assert temporary.unremoved == []
    assert bench.temporary == []


async def test_a_discarded_instance_leaves_no_file(bench: Bench) -> None:
    instance = Instance(pixels=6 * BLOCK)
    data = instance.encode(EXPLICIT)
    for end in (0, 1, BLOCK, 5 * BLOCK):
        sink = bench.begin(instance)
        bench.feed(sink, data[:end], last=False)
        sink.discard()
        sink.discard()
    await bench.owner.until(lambda: not bench.owner.kept)
    await bench.quiet()
    assert bench.owner.outcomes == []
    assert bench.reports == []
    assert bench.temporary == []
    assert len(bench.storage.folders) == 0


async def test_sinks_are_freed_without_the_garbage_collector(bench: Bench) -> None:
    """Refused ones make no reference cycles with their buffers either."""

    def alive() -> list[StorageSink | Gather]:
        return [each for each in gc.get_objects() if isinstance(each, (StorageSink, Gather))]

    gc.collect()
    of_others = alive()  # of tests before this one, which are none of our business
    gc.disable()
    try:
        for _ in range(3):
            await bench.store(Instance(pixels=3 * BLOCK))
            await bench.store(Instance(pixels=3 * BLOCK), omit=("PatientID",))
            bench.journal.error = OSError(errno.EIO, "")
            await bench.store(Instance(pixels=3 * BLOCK))
            bench.journal.error = None
        await bench.quiet()
        left = [each for each in alive() if not any(each is other for other in of_others)]
    finally:
        gc.enable()
    assert left == []


async def test_a_uid_too_long_for_a_file_header_is_refused(bench: Bench) -> None:
    uid = "1." * 40_000 + "1"
    outcome = await bench.store(Instance(), sop_instance=uid)
    assert outcome.status == 0xA900


# ---- one series, one folder --------------------------------------------------------------


async def test_a_later_instance_is_stored_in_the_folder_of_the_first(bench: Bench) -> None:
    series = new_uid()
    await bench.store(Instance(series=series, number=1))
    await bench.store(
        Instance(series=series, number=2, PatientID="OTHER", SeriesDescription="Bone"),
        association="B",
    )
    assert len({os.path.dirname(file) for file in bench.files()}) == 1
    first, second = bench.stored()
    assert first.series is second.series
    assert bench.storage.folders._folders[first.series.key].differing == 1
    await bench.store(Instance(series=series, number=2, PatientID="OTHER"), aet="OTHER")
    assert len({os.path.dirname(file) for file in bench.files()}) == 2, "the series of another PACS"


async def test_a_first_instance_that_failed_does_not_name_the_folder(bench: Bench) -> None:
    series = new_uid()
    bench.journal.error = OSError(errno.EIO, "")
    await bench.store(Instance(series=series, PatientID="WRONG"))
    bench.journal.error = None
    await bench.store(Instance(series=series, PatientID="RIGHT"))
    (file,) = bench.files()
    assert "RIGHT" in file
    (stored,) = bench.stored()
    assert bench.storage.folders._folders[stored.series.key].differing == 0


@pytest.mark.parametrize("earlier_session", [False, True])
async def test_a_repeat_with_another_number_replaces_the_older_file(
    bench: Bench, earlier_session: bool
) -> None:
    first = Instance(number=1)
    other = Instance(number=2, series=first.series)
    await bench.store(first)
    await bench.store(other)
    if earlier_session:
        key = bench.stored()[0].series.key
        bench.storage.association_ended("A")
        bench.storage.folders.completed(key, [each.association_id for each in bench.stored()])
        assert len(bench.storage.folders) == 0
    repeat = Instance(number=9, series=first.series, sop_instance=first.sop_instance)
    assert (await bench.store(repeat, association="B")).status == 0
    assert [os.path.basename(file) for file in bench.files()] == sorted(
        [f"0009-{first.sop_instance}.dcm", f"0002-{other.sop_instance}.dcm"]
    )
    assert (await bench.store(repeat, association="B")).status == 0
    assert len(bench.files()) == 2


async def test_repeated_instances_at_the_same_time_leave_one_file(bench: Bench) -> None:
    instance = Instance(number=1)
    await bench.store(instance)
    for round_ in range(20):
        count = len(bench.owner.outcomes)
        for number in (1, 2, round_):
            repeat = Instance(
                number=number,
                series=instance.series,
                sop_instance=instance.sop_instance,
                pixels=BLOCK,
            )
            bench.feed(bench.begin(repeat), repeat.encode(EXPLICIT))
        await bench.owner.outcome(count + 3)
        assert len(bench.files()) == 1
        assert f"{round_:04d}-" in bench.files()[0], "the last one is kept"
        assert (bench.root / bench.files()[0]).read_bytes().endswith(repeat.encode(EXPLICIT))
    assert {outcome.status for outcome in bench.owner.outcomes} == {0}


@pytest.mark.parametrize(
    ("mine", "odd"),
    [
        ("3.4", "1.2-3.4"),  # a UID with a hyphen ends like another one
        ("12345678", "x" * 300),
        ("1.2.3", "1.2.3/"),
    ],
)
async def test_an_invalid_uid_never_removes_the_file_of_another_instance(
    bench: Bench, mine: str, odd: str
) -> None:
    series = new_uid()
    for number, uid in ((1, odd), (2, mine), (3, odd), (4, mine)):
        assert (
            await bench.store(Instance(series=series, number=number, sop_instance=uid))
        ).status == 0
        assert (
            any(file.endswith(f"{number:04d}-{mine}.dcm") for file in bench.files()) or uid == odd
        )
    assert len([file for file in bench.files() if file.endswith(f"-{mine}.dcm")]) >= 1
    assert len(bench.files()) == 3, "both files of the invalid UID are kept"


async def test_a_removed_folder_is_made_again(bench: Bench) -> None:
    series = new_uid()
    await bench.store(Instance(series=series, number=1))
    shutil.rmtree(bench.root / "SERVICES")
    assert (await bench.store(Instance(series=series, number=2))).status == 0
    assert len(bench.files()) == 1


async def test_a_folder_that_became_a_link_is_refused(
    bench: Bench, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    series = new_uid()
    await bench.store(Instance(series=series, number=1))
    folder = bench.root / bench.stored()[0].series.path
    folder.rename(outside / "folder")
    folder.symlink_to(outside / "folder")
    assert (await bench.store(Instance(series=series, number=2))).status == 0x0110
    # A fresh reception meets the link when it makes the folders.
    bench.storage.association_ended("A")
    bench.storage.folders.completed(
        bench.stored()[0].series.key, [each.association_id for each in bench.stored()]
    )
    assert (await bench.store(Instance(series=series, number=3))).status == 0x0110
    assert len(os.listdir(outside / "folder")) == 1


async def test_a_root_that_is_a_link_is_followed(tmp_path: Path, mode: Mode) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "root").symlink_to(tmp_path / "real")
    bench = Bench(tmp_path / "root", mode)
    assert (await bench.store(Instance())).status == 0
    assert len(list((tmp_path / "real").rglob("*.dcm"))) == 1
    await bench.close()


async def test_a_removed_folder_of_temporary_files_is_made_again(bench: Bench) -> None:
    await bench.store(Instance())
    shutil.rmtree(bench.root / ".oxidicom")
    assert (await bench.store(Instance(pixels=5 * BLOCK))).status == 0
    assert len(bench.files()) == 2


async def test_an_instance_whose_temporary_file_was_removed_is_refused(bench: Bench) -> None:
    instance = Instance(pixels=5 * BLOCK)
    data = instance.encode(EXPLICIT)
    sink = bench.begin(instance)
    bench.feed(sink, data[: 2 * BLOCK], last=False)
    await bench.owner.until(lambda: not bench.owner.kept)
    shutil.rmtree(bench.root / ".oxidicom")
    bench.feed(sink, data[2 * BLOCK :])
    assert (await bench.owner.outcome()).status == 0x0110
    assert bench.files() == []


# ---- quarantine --------------------------------------------------------------------------


@pytest.fixture(params=["beside", "elsewhere"])
def state_dir(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    if request.param == "beside":
        yield tmp_path / ".oxidicom"
        return
    other = Path("/dev/shm") / f"oxidicom-test-{os.getpid()}"
    yield other
    subprocess.run(["rm", "-rf", other], check=True)


@pytest.mark.parametrize("pixels", [0, 5 * BLOCK])
async def test_a_refused_instance_is_kept_completely(
    make: Make, tmp_path: Path, state_dir: Path, pixels: int
) -> None:
    bench = make(quarantine=Quarantine(tmp_path, state_dir))
    instance = Instance(pixels=pixels)
    data = instance.encode(EXPLICIT, omit=("PatientID",))
    assert (await bench.store(instance, omit=("PatientID",))).status == 0xC000
    (kept,) = (state_dir / "quarantine").iterdir()
    assert kept.read_bytes().endswith(data)
    assert pydicom.dcmread(kept).SOPInstanceUID == instance.sop_instance
    garbage = b"\xff" * (3 * BLOCK)
    assert (await bench.store(Instance(), data=garbage)).status == 0xC000
    files = {path.stat().st_size: path for path in (state_dir / "quarantine").iterdir()}
    assert len(files) == 2
    assert any(path.read_bytes().endswith(garbage) for path in files.values())
    await bench.quiet()
    assert bench.temporary == []
    beside = tmp_path / ".oxidicom/quarantine"
    assert beside == state_dir / "quarantine" or list(beside.iterdir()) == []


async def test_an_instance_refused_for_a_storage_error_is_not_kept(
    make: Make, tmp_path: Path
) -> None:
    bench = make(quarantine=Quarantine(tmp_path, tmp_path / ".oxidicom"))
    bench.journal.error = OSError(errno.EIO, "")
    assert (await bench.store(Instance(pixels=3 * BLOCK))).status == 0x0110
    await bench.quiet()
    assert bench.temporary == []
    assert not (tmp_path / ".oxidicom/quarantine").exists()


@pytest.mark.parametrize("failing", [1, 3])
async def test_an_incomplete_instance_is_never_kept(
    make: Make, tmp_path: Path, failing: int
) -> None:
    """A write fails, and then the data set is found to be invalid."""
    bench = make(quarantine=Quarantine(tmp_path, tmp_path / ".oxidicom"))
    original = bench.storage.temporary.part_file

    def fault(write: int) -> None:
        if write == failing:
            raise OSError(errno.EIO, "")

    bench.storage.temporary.part_file = lambda header: FaultyPart(original(header), fault)  # type: ignore[method-assign, assignment, return-value]
    outcome = await bench.store(Instance(pixels=5 * BLOCK), omit=("PatientID",))
    assert outcome.status in (0x0110, 0xC000)
    await bench.quiet()
    assert bench.temporary == []
    assert not (tmp_path / ".oxidicom/quarantine").exists()


async def test_a_quarantine_that_fails_delays_no_answer(make: Make, tmp_path: Path) -> None:
    (tmp_path / ".oxidicom").mkdir()
    (tmp_path / ".oxidicom/quarantine").write_text("a file in the way")
    bench = make(quarantine=Quarantine(tmp_path, tmp_path / ".oxidicom"))
    assert (await bench.store(Instance(), omit=("PatientID",))).status == 0xC000
    await bench.quiet()
    assert bench.temporary == []


# ---- from inline to threads --------------------------------------------------------------


def ignore_calls_quicker_than(nanoseconds: int, policy: WritePolicy) -> list[int]:
    """Keep the policy from what a busy machine does to our calls; return those that it learns."""
    observed: list[int] = []

    def observe(slowest_ns: int, now: float) -> None:
        if slowest_ns >= nanoseconds:
            observed.append(slowest_ns)
            WritePolicy.observe(policy, slowest_ns, now)

    policy.observe = observe  # type: ignore[method-assign]
    return observed


async def test_a_slow_call_sends_the_rest_of_the_instance_to_a_thread(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "auto")
    ignore_calls_quicker_than(25_000_000, bench.policy)
    instance = Instance(pixels=8 * BLOCK)
    data = instance.encode(EXPLICIT)
    sink = bench.begin(instance)
    assert bench.feed(sink, data[: 2 * BLOCK], last=False) == 0
    sink._part.slowest_ns = 25_000_000
    assert bench.feed(sink, data[2 * BLOCK : 3 * BLOCK], last=False) == 0
    assert bench.feed(sink, data[3 * BLOCK :]) > 0
    assert (await bench.owner.outcome()).status == 0
    (file,) = bench.files()
    assert (bench.root / file).read_bytes().endswith(data)
    await bench.close()


async def test_a_slow_call_is_reported_to_the_policy_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "auto")
    observed = ignore_calls_quicker_than(1_000_000_000, bench.policy)
    sink = bench.begin(Instance())
    bench.feed(sink, bytes(100), last=False)
    sink._part.slowest_ns = 1_000_000_000
    for _ in range(5):
        bench.feed(sink, bytes(100), last=False)
    assert observed == [1_000_000_000], "one slow call counted several times"
    sink.discard()
    await bench.close()


async def test_the_folder_of_an_earlier_session_is_not_listed_on_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, "auto")
    ignore_calls_quicker_than(1_000_000_000, bench.policy)
    threads: list[threading.Thread] = []
    scandir = os.scandir

    def noted(path: Any) -> Any:
        threads.append(threading.current_thread())
        return scandir(path)

    monkeypatch.setattr(os, "scandir", noted)
    instance = Instance()
    await bench.store(instance)
    assert threads == [], "a new folder needs no listing"
    bench.storage.association_ended("A")
    bench.storage.folders.completed(
        bench.stored()[0].series.key, [each.association_id for each in bench.stored()]
    )
    await bench.store(instance, association="B")
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()
    await bench.store(instance, association="B")
    assert len(threads) == 1
    monkeypatch.undo()
    await bench.close()


async def test_all_hanging_threads_are_left_behind_after_one_time_limit(tmp_path: Path) -> None:
    gate = threading.Event()
    bench = Bench(tmp_path, "threads")
    ended = [asyncio.Event(), asyncio.Event()]
    for event in ended:
        bench.executors.next_thread().run(
            lambda: gate.wait(30),
            lambda result, error, event=event: event.set(),  # type: ignore[misc]
        )
    began = time.monotonic()
    await asyncio.to_thread(bench.executors.stop, 3)
    assert time.monotonic() - began < 5.5, "each waited its own time"
    assert bench.executors.abandoned
    bench.storage.close()
    os.fstat(bench.storage.root_fd)  # still open for the threads
    gate.set()
    async with asyncio.timeout(5):
        for event in ended:
            await event.wait()
    bench.executors.abandoned = False
    bench.storage.close()
