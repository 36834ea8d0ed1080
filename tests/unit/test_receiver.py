"""A receiver's start and end on a machine with faults."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from oxidicom.app import takeover
from oxidicom.app.deadlines import ShutdownBudget
from oxidicom.app.receiver import Receiver
from oxidicom.errors import OperatorError
from oxidicom.settings import load
from oxidicom.store import executors


async def test_a_journal_that_cannot_be_listed_is_reported_to_the_operator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EACCES, "Permission denied", str(tmp_path / ".oxidicom/journal"))

    monkeypatch.setattr(takeover, "recover", fail)
    settings, _ = load({"OXIDICOM_FILES_ROOT": str(tmp_path)})
    with pytest.raises(OperatorError, match="cannot use the storage: Permission denied"):
        await Receiver(settings).start()


@pytest.fixture(autouse=True)
def switch_interval_restored() -> Iterator[None]:
    interval = sys.getswitchinterval()
    yield
    sys.setswitchinterval(interval)


@pytest.mark.parametrize("remote", ["files", "state", None])
async def test_instances_are_written_inline_only_if_files_and_journal_are_on_local_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remote: str | None
) -> None:
    nfs, ext4 = 0x6969, 0xEF53

    def filesystem_type(fd: int) -> int:
        return nfs if os.path.basename(os.readlink(f"/proc/self/fd/{fd}")) == remote else ext4

    monkeypatch.setattr(executors, "filesystem_type", filesystem_type)
    folders = {"OXIDICOM_FILES_ROOT": "files", "OXIDICOM_STATE_DIR": "state"}
    settings, _ = load({name: str(tmp_path / folder) for name, folder in folders.items()})
    for folder in folders.values():
        (tmp_path / folder).mkdir()
    made = executors.make_executors(settings, 1)
    assert made.policy.decide(0.0) is (remote is None)
    assert sys.getswitchinterval() < 0.001, "writer threads beside a busy loop"


# ---- shutdown with parts that never end ---------------------------------------------------------

SHORT = ShutdownBudget(
    associations_s=0.0,
    last_instances_s=0.1,
    writer_threads_s=0.2,
    after_drain_s=1.0,
    control_loop_s=0.2,
)


@pytest_asyncio.fixture
async def receiver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Receiver:
    """A receiver that listens, and has about a second for its shutdown."""
    settings, _ = load({"OXIDICOM_FILES_ROOT": str(tmp_path), "OXIDICOM_LISTENER_PORT": "0"})
    receiver = Receiver(settings)
    await receiver.start()
    monkeypatch.setattr(receiver._control, "_budget", SHORT)
    monkeypatch.setattr(receiver._data_plane, "_budget", SHORT)
    return receiver


async def seconds_to_drain(receiver: Receiver) -> float:
    began = time.monotonic()
    await receiver.drain()
    return time.monotonic() - began


async def test_a_connection_that_cannot_be_closed_does_not_delay_the_shutdown(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(timeout: float, extra: float) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(receiver._data_plane.listener, "drain", hang)
    assert await seconds_to_drain(receiver) < SHORT.total_s + 0.3
    assert not receiver._control._thread._thread.is_alive()


async def test_a_certificate_on_storage_that_hangs_does_not_delay_the_shutdown(
    receiver: Receiver,
) -> None:
    released, began = threading.Event(), threading.Event()

    def hang() -> None:
        began.set()
        released.wait(30)

    task = asyncio.create_task(receiver._data_plane._certificate_disk.run(hang))
    assert await asyncio.to_thread(began.wait, 10)
    assert await seconds_to_drain(receiver) < SHORT.total_s + 0.3
    released.set()
    await task


async def test_a_control_plane_that_hangs_does_not_delay_the_shutdown(receiver: Receiver) -> None:
    released = threading.Event()
    receiver._control._thread.loop.call_soon_threadsafe(released.wait, 30)
    assert await seconds_to_drain(receiver) < SHORT.total_s + 0.3
    assert receiver._control._thread._thread.is_alive(), "it is left behind"
    released.set()
    receiver._control._thread._thread.join(10)
