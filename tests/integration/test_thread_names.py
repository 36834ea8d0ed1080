"""Threads and processes of a receiver have names that `ps -L` shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.data import Instance
from tests.support.raw_peer import EXPLICIT, RawPeer
from tests.support.receiver import Receiver, wait_until


def thread_names(pid: int) -> list[str]:
    """Return the kernel's names of the threads of a process, that of the main thread first."""
    # The main thread has the number of the process; others may have smaller ones.
    tasks = sorted(Path(f"/proc/{pid}/task").iterdir(), key=lambda task: task.name != str(pid))
    return [(task / "comm").read_text().rstrip() for task in tasks]


def store_one(receiver: Receiver) -> None:
    instance = Instance()
    with RawPeer(receiver.port) as peer:
        peer.associate()
        assert peer.store(instance.sop_instance, instance.encode(EXPLICIT)).status == 0
        peer.release()
    receiver.wait_for_registration(instance.series)


@pytest.mark.parametrize("workers", [1, 2])
def test_every_thread_has_a_name_of_its_own(tmp_path: Path, workers: int) -> None:
    with Receiver(
        tmp_path,
        OXIDICOM_WORKERS=str(workers),
        OXIDICOM_WRITE_MODE="threads",
        OXIDICOM_ADMIN_PORT="0",
    ) as receiver:
        store_one(receiver)
        control, *receiving = (process.pid for process in receiver.processes())
        expected = {"ox-control", "ox-registrar-0", "ox-outbox-0"}
        wait_until(lambda: expected <= set(thread_names(control)), "threads of the control plane")
        main, *others = thread_names(control)
        assert main == "oxidicom"
        # libuv resolves names on threads of its own.
        assert {name for name in others if not name.startswith("ox-")} <= {"libuv-worker"}
        names = [name for pid in receiving or [control] for name in thread_names(pid)]
        assert "ox-writer-0" in names
        assert {name for name in names if name.startswith("ox-worker")} == {
            f"ox-worker-{number}" for number in range(1, 1 + len(receiving))
        }
        commands = [" ".join(process.cmdline()) for process in receiver.workers()]
        assert sorted(command[-8:] for command in commands) == [
            f"worker {number}" for number in range(1, 1 + len(receiving))
        ]
