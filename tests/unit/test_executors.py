"""The executors of storage calls: inline, and on writer threads."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

from oxidicom.store.executors import StorageExecutors
from oxidicom.store.write_policy import WritePolicy


async def test_while_a_call_hangs_auto_does_not_write_inline() -> None:
    """Even if the time since the latest slow call that has returned is long enough."""
    now = 0.0
    policy = WritePolicy("auto", local=True, fsync=False)
    executors = StorageExecutors(asyncio.get_running_loop(), policy, 2, lambda: now)
    gate, started, ended = threading.Event(), asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def hang() -> None:
        loop.call_soon_threadsafe(started.set)
        gate.wait(10)

    policy.observe(25_000_000, now)
    executor = executors.choose()
    assert not executors.is_inline(executor)
    executor.run(hang, lambda result, error: ended.set())
    await started.wait()
    now = 1000.0
    assert policy.decide(now)
    assert not executors.is_inline(executors.choose())
    gate.set()
    await ended.wait()
    assert executors.is_inline(executors.choose())
    await asyncio.to_thread(executors.stop, 5)
    assert not executors.abandoned


async def test_a_thread_that_has_just_started_a_job_does_not_hang() -> None:
    now = 0.0
    policy = WritePolicy("auto", local=True, fsync=False)
    executors = StorageExecutors(asyncio.get_running_loop(), policy, 2, lambda: now)
    gate, started = threading.Event(), asyncio.Event()
    done = [asyncio.Event(), asyncio.Event(), asyncio.Event()]
    loop = asyncio.get_running_loop()

    def busy() -> None:
        loop.call_soon_threadsafe(started.set)
        gate.wait(10)

    for event in done[:2]:
        executors.next_thread().run(lambda: None, lambda result, error, event=event: event.set())  # type: ignore[misc]
        await event.wait()
    now = 1000.0
    executors.next_thread().run(busy, lambda result, error: done[2].set())
    await started.wait()
    assert executors.is_inline(executors.choose())
    now = 1000.1
    assert not executors.is_inline(executors.choose())
    gate.set()
    await done[2].wait()
    await asyncio.to_thread(executors.stop, 5)


async def test_a_completion_that_fails_does_not_stop_the_others() -> None:
    loop = asyncio.get_running_loop()
    executors = StorageExecutors(
        loop, WritePolicy("threads", local=True, fsync=False), 1, time.monotonic
    )
    faults: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda loop, context: faults.append(context))
    delivered = asyncio.Event()
    gate = threading.Event()

    def failing(result: None, error: BaseException | None) -> None:
        raise RuntimeError

    executor = executors.choose()
    executor.run(lambda: gate.wait(10), lambda result, error: None)
    executor.run(lambda: None, failing)
    executor.run(lambda: None, lambda result, error: delivered.set())
    gate.set()
    await asyncio.wait_for(delivered.wait(), 5)
    assert [type(fault["exception"]) for fault in faults] == [RuntimeError]
    loop.set_exception_handler(None)
    await asyncio.to_thread(executors.stop, 5)
