"""Inspecting and requeueing outbox entries beside receivers (decisions 32, 35, 41)."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from oxidicom.notify import outbox_store as outbox_module
from oxidicom.notify.outbox_inspect import (
    EntryState,
    OutboxFile,
    RequeueOutcome,
    entry_files,
    inspect,
    requeue,
)
from oxidicom.notify.outbox_scanner import (
    OUTBOX_POLL_INTERVAL_S,
    OUTBOX_SCAN_INTERVAL_S,
    OutboxPoll,
    OutboxScanner,
)
from oxidicom.notify.outbox_store import Outbox, OutboxEntry, new_entry
from tests.support.registrations import numbered

ENTRY = new_entry(numbered(1, 5))
NAME = ENTRY.name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "outbox"


@pytest.fixture
def outbox(folder: Path) -> Outbox:
    return Outbox(folder, sync=False)


def refused(outbox: Outbox, entry: OutboxEntry = ENTRY, reason: str = "400") -> None:
    outbox.put(entry)
    assert outbox.refuse(entry, reason, 2)


def files(folder: Path) -> list[str]:
    """Without the entry's name: their suffixes."""
    return sorted(name.removeprefix(NAME) for name in os.listdir(folder))


def seen(folder: Path) -> list[OutboxFile]:
    return [found for path in entry_files(folder) if (found := inspect(path)) is not None]


def later(ndicom: int = 6, seconds: float = 5) -> OutboxEntry:
    """Return a later entry of the same series."""
    return msgspec.structs.replace(
        new_entry(numbered(1, ndicom)), written_at=ENTRY.written_at + seconds
    )


# ---- what is seen --------------------------------------------------------------------------------


def test_a_refused_entry_gives_the_reason(outbox: Outbox, folder: Path) -> None:
    refused(outbox, reason="CUBE answers 400, at fault: path")
    (found,) = seen(folder)
    assert (found.state, found.name, found.note) == (EntryState.REFUSED, NAME, None)
    assert found.entry is not None
    assert found.entry.refusal is not None
    assert found.entry.refusal.reason == "CUBE answers 400, at fault: path"
    assert found.entry.refusal.attempts == 2
    assert abs(found.entry.refusal.at - time.time()) < 60
    assert found.entry.registration == ENTRY.registration


def test_an_entry_of_an_earlier_version_can_be_read(outbox: Outbox, folder: Path) -> None:
    outbox.put(ENTRY)
    data = json.loads((folder / f"{NAME}.json").read_bytes())
    assert "refusal" not in data, "earlier versions must be able to read ours"
    (folder / f"{NAME}.json").rename(folder / f"{NAME}.refused")
    (found,) = seen(folder)
    assert (found.state, found.entry) == (EntryState.REFUSED, ENTRY)
    assert requeue(found.path, sync=False) is RequeueOutcome.BACK
    assert outbox.read(NAME) == ENTRY


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"{", "malformed|truncated"),
        (b'{"task_id":"Doe^Jane"}', "missing required field"),
        (b"\xff" * 9, "malformed"),
        (b" " * (1 << 20) + b"xx", "longer"),
        (msgspec.json.encode(new_entry(numbered(2))), "another series"),
    ],
)
@pytest.mark.parametrize("suffix", [".json", ".corrupt", ".refused", ".retry"])
def test_a_corrupt_entry_gives_the_fault_and_quotes_nothing(
    folder: Path, data: bytes, says: str, suffix: str
) -> None:
    folder.mkdir()
    path = folder / (NAME + suffix)
    path.write_bytes(data)
    (found,) = seen(folder)
    assert (found.state, found.entry) == (EntryState.CORRUPT, None)
    assert found.note is not None
    assert any(word in found.note for word in says.split("|")), found.note
    assert "Doe" not in found.note
    assert found.written_at == pytest.approx(path.stat().st_mtime)
    assert requeue(path, sync=False) is RequeueOutcome.CORRUPT
    assert path.read_bytes() == data


def test_only_regular_files_are_entries(folder: Path) -> None:
    (folder / f"{NAME}.refused").mkdir(parents=True)
    (folder / f"{'0' * 40}.json").symlink_to("/etc/passwd")
    for found in seen(folder):
        assert found.state is EntryState.CORRUPT
        assert (found.note or "").startswith("cannot be read: ")


def test_a_copy_under_another_name_is_set_aside_as_corrupt(outbox: Outbox, folder: Path) -> None:
    outbox.put(ENTRY)
    (folder / "copy.json").write_bytes((folder / f"{NAME}.json").read_bytes())
    assert list(outbox.pending()) == [ENTRY]
    assert sorted(os.listdir(folder)) == sorted([f"{NAME}.json", "copy.corrupt"])


def test_an_outbox_may_be_empty_or_absent(folder: Path) -> None:
    assert entry_files(folder) == []
    folder.mkdir()
    (folder / ".123.tmp").touch()
    (folder / "notes.txt").touch()
    assert entry_files(folder) == []


# ---- back to pending -----------------------------------------------------------------------------


@pytest.mark.parametrize("sync", [False, True])
def test_a_requeued_entry_is_pending(outbox: Outbox, folder: Path, sync: bool) -> None:
    refused(outbox)
    (path,) = entry_files(folder)
    assert requeue(path, sync=sync) is RequeueOutcome.BACK
    assert files(folder) == [".json"]
    (entry,) = outbox.pending()
    assert entry.task_id == ENTRY.task_id
    assert requeue(path, sync=sync) is RequeueOutcome.GONE
    (path,) = entry_files(folder)
    assert requeue(path, sync=sync) is RequeueOutcome.PENDING
    assert outbox.remove(entry)
    assert files(folder) == []


def test_requeueing_does_not_replace_a_newer_pending_entry(outbox: Outbox, folder: Path) -> None:
    refused(outbox)
    newer = later()
    outbox.put(newer)
    assert requeue(folder / f"{NAME}.refused", sync=False) is RequeueOutcome.NEWER
    assert files(folder) == [".json", ".refused"]
    assert outbox.read(NAME) == newer
    assert outbox.remove(newer)
    assert files(folder) == [], "what is older than what CUBE has is settled"


def test_requeueing_waits_for_an_older_pending_entry(outbox: Outbox, folder: Path) -> None:
    refused(outbox, later())
    outbox.put(ENTRY)
    assert requeue(folder / f"{NAME}.refused", sync=False) is RequeueOutcome.OLDER
    assert outbox.remove(ENTRY)
    assert files(folder) == [".refused"]
    assert requeue(folder / f"{NAME}.refused", sync=False) is RequeueOutcome.BACK


def test_a_requeued_entry_may_be_refused_again(outbox: Outbox, folder: Path) -> None:
    refused(outbox, reason="400")
    requeue(folder / f"{NAME}.refused", sync=False)
    (entry,) = outbox.pending()
    assert outbox.refuse(entry, "404")
    (found,) = seen(folder)
    assert found.entry is not None
    assert found.entry.refusal is not None
    assert found.entry.refusal.reason == "404"


def test_a_repaired_corrupt_entry_can_be_requeued(outbox: Outbox, folder: Path) -> None:
    outbox.put(ENTRY)
    (folder / f"{NAME}.json").rename(folder / f"{NAME}.corrupt")
    (found,) = seen(folder)
    assert found.state is EntryState.CORRUPT
    assert "retry requeues it" in (found.note or "")
    assert requeue(found.path, sync=False) is RequeueOutcome.BACK
    assert list(outbox.pending()) == [ENTRY]


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP])
def test_requeueing_works_without_hard_links(
    outbox: Outbox, folder: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def link(*args: object, **kwargs: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", link)
    refused(outbox)
    assert requeue(folder / f"{NAME}.refused", sync=False) is RequeueOutcome.BACK
    assert files(folder) == [".json"]
    (entry,) = outbox.pending()
    outbox.refuse(entry, "400")
    outbox.put(later())
    assert requeue(folder / f"{NAME}.refused", sync=False) is RequeueOutcome.NEWER
    assert files(folder) == [".json", ".refused"]


class Killed(BaseException):
    """As SIGKILL: nothing that is to happen after it does."""


def dying_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the `step`th change to the folder from here on."""
    left = step

    def dying(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            return call(*args, **kwargs)

        return wrapped

    for name in ("rename", "replace", "link", "unlink"):
        monkeypatch.setattr(os, name, dying(getattr(os, name)))


@pytest.mark.parametrize(
    ("links", "step"), [(True, step) for step in range(3)] + [(False, step) for step in range(4)]
)
def test_a_requeue_can_continue_after_a_crash_at_any_step(
    outbox: Outbox, folder: Path, monkeypatch: pytest.MonkeyPatch, links: bool, step: int
) -> None:
    refused(outbox)
    if not links:

        def no_link(*args: object, **kwargs: object) -> None:
            raise OSError(errno.EPERM, "no")

        monkeypatch.setattr(os, "link", no_link)
    with monkeypatch.context() as patch:
        dying_at(step, patch)
        with pytest.raises(Killed):
            requeue(folder / f"{NAME}.refused", sync=False)
    (found,) = seen(folder)
    assert found.entry is not None, "it is in sight, once"
    assert found.entry.task_id == ENTRY.task_id
    assert found.state is (EntryState.REFUSED if step < (2 if links else 3) else EntryState.PENDING)
    for path in entry_files(folder):
        requeue(path, sync=False)
    assert files(folder) == [".json"]


@pytest.mark.parametrize("step", range(2))
def test_a_refusal_can_be_repeated_after_a_crash_at_any_step(
    outbox: Outbox, folder: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    outbox.put(ENTRY)
    with monkeypatch.context() as patch:
        dying_at(step, patch)
        with pytest.raises(Killed):
            outbox.refuse(ENTRY, "400")
    again = Outbox(folder, sync=False)
    (entry,) = again.pending()
    assert again.refuse(entry, "400")
    assert [found.state for found in seen(folder)] == [EntryState.REFUSED]


def test_a_confirmed_delivery_removes_a_claimed_entry(outbox: Outbox, folder: Path) -> None:
    refused(outbox)
    os.link(folder / f"{NAME}.refused", folder / f"{NAME}.retry")
    (folder / f"{NAME}.refused").rename(folder / f"{NAME}.json")
    assert files(folder) == [".json", ".retry"]
    (entry,) = outbox.pending()
    assert outbox.remove(entry)
    assert files(folder) == []


def test_a_confirmed_delivery_leaves_newer_refused_entries(outbox: Outbox, folder: Path) -> None:
    refused(outbox, later())
    outbox.put(ENTRY)
    assert outbox.remove(ENTRY)
    assert files(folder) == [".refused"]


def test_a_newer_refused_entry_replaces_one_whose_requeue_was_interrupted(
    outbox: Outbox, folder: Path
) -> None:
    refused(outbox)
    (folder / f"{NAME}.refused").rename(folder / f"{NAME}.retry")
    newer = later()
    refused(outbox, newer)
    assert requeue(folder / f"{NAME}.refused", sync=False) is RequeueOutcome.BACK
    (entry,) = outbox.pending()
    assert entry.task_id == newer.task_id
    assert files(folder) == [".json"]


def test_on_a_full_disk_a_refused_entry_is_kept_without_its_reason(
    outbox: Outbox, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox.put(ENTRY)

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(outbox_module, "write_atomically", full)
    assert outbox.refuse(ENTRY, "400")
    (found,) = seen(folder)
    assert (found.state, found.entry) == (EntryState.REFUSED, ENTRY)


# ---- the outbox scanner ------------------------------------------------------------------------


def test_a_scan_finds_old_and_requeued_entries_of_others(outbox: Outbox, folder: Path) -> None:
    mine, young, old, back = (new_entry(numbered(number)) for number in range(4))
    for entry in (mine, young, old):
        outbox.put(entry)
    refused(outbox, back)
    requeue(folder / f"{back.name}.refused", sync=False)
    aged = time.time() - 100
    os.utime(folder / f"{old.name}.json", (aged, aged))
    scan = outbox.scan({mine.name}.__contains__)
    assert scan.names == [old.name, back.name]
    assert scan.young_entries
    outbox.remove(young)
    assert not outbox.scan({mine.name}.__contains__).young_entries


class ScannerBench:
    """An OutboxScanner whose clock advances by its own sleeps."""

    def __init__(self, outbox: Outbox) -> None:
        self.now = 0.0
        self.found: list[str] = []
        self.scans = 0
        self.known: set[str] = set()
        self.seconds: float | None = None
        self.error: OSError | None = None
        self._sleep_ends = asyncio.Semaphore(0)
        self._done = asyncio.Event()
        self.slept: list[float] = []
        self.scanner = OutboxScanner(
            outbox,
            self.known.__contains__,
            self.found.extend,
            self._on_disk,
            sleep=self._sleep,
            clock=lambda: self.now,
        )

    async def _on_disk(self, call: Callable[[], OutboxPoll]) -> OutboxPoll:
        if self.error is not None:
            raise self.error
        poll = call()
        self.scans += poll.scan is not None
        return poll if self.seconds is None else poll._replace(scan_seconds=self.seconds)

    async def _sleep(self, seconds: float) -> None:
        self._done.set()
        await self._sleep_ends.acquire()
        self.slept.append(seconds)
        self.now += seconds

    async def advance(self) -> None:
        """End one sleep and wait for the next one."""
        await self._done.wait()
        self._done.clear()
        self._sleep_ends.release()
        await self._done.wait()


async def test_an_unchanged_folder_is_polled_but_not_scanned(outbox: Outbox, folder: Path) -> None:
    outbox.put(ENTRY)
    bench = ScannerBench(outbox)
    bench.known.add(NAME)
    task = asyncio.create_task(bench.scanner.run())
    for _ in range(20):
        await bench.advance()
    assert bench.scans == 1
    assert set(bench.slept) == {OUTBOX_POLL_INTERVAL_S}
    for _ in range(15):
        await bench.advance()
    assert bench.scans == 2, "whatever its time of modification says"
    refused(outbox, later())
    requeue(folder / f"{NAME}.refused", sync=False)
    bench.known.clear()
    await bench.advance()
    assert bench.found == [NAME]
    task.cancel()


async def test_a_slow_scan_is_followed_by_a_long_pause(outbox: Outbox) -> None:
    bench = ScannerBench(outbox)
    bench.seconds = 0.12
    task = asyncio.create_task(bench.scanner.run())
    await bench.advance()
    await bench.advance()
    bench.seconds = 5
    outbox.put(ENTRY)
    await bench.advance()
    await bench.advance()
    assert bench.slept[1] == pytest.approx(12)
    assert max(bench.slept) == OUTBOX_SCAN_INTERVAL_S
    task.cancel()


async def test_the_scanner_continues_after_storage_errors(outbox: Outbox) -> None:
    aged = time.time() - 100
    outbox.put(ENTRY)
    for path in entry_files(outbox._folder):
        os.utime(path, (aged, aged))
    bench = ScannerBench(outbox)
    bench.error = OSError(errno.EIO, "sick")
    task = asyncio.create_task(bench.scanner.run())
    await bench.advance()
    await bench.advance()
    bench.error = None
    await bench.advance()
    assert bench.found == [NAME]
    assert bench.slept == [OUTBOX_POLL_INTERVAL_S, OUTBOX_SCAN_INTERVAL_S, OUTBOX_SCAN_INTERVAL_S]
    task.cancel()
