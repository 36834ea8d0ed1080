from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import AsyncIterator

import pytest

from oxidicom.disk_executor import FIRST_RETRY_S, GREATEST_RETRY_S, DiskExecutor


class Sleeps:
    """Notes the delays that it is asked to wait, and waits for none of them."""

    def __init__(self) -> None:
        self.delays: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.delays.append(seconds)


@pytest.fixture
def sleeps() -> Sleeps:
    return Sleeps()


@pytest.fixture
async def disk(sleeps: Sleeps) -> AsyncIterator[DiskExecutor]:
    executor = DiskExecutor("test disk", sleep=sleeps)
    yield executor
    executor.close()


async def test_a_call_runs_on_a_thread_with_the_executors_name(disk: DiskExecutor) -> None:
    name = await disk.run(lambda: threading.current_thread().name)
    assert name.startswith("test disk")
    with pytest.raises(ZeroDivisionError):
        await disk.run(divmod, 1, 0)


async def test_a_call_that_fails_is_repeated_until_it_succeeds(
    disk: DiskExecutor, sleeps: Sleeps
) -> None:
    failures = [OSError(errno.EIO, "one")] + [OSError(errno.ENOSPC, "other")] * 7
    told: list[OSError] = []

    def call(value: int, *, factor: int) -> int:
        if failures:
            raise failures.pop(0)
        return value * factor

    assert await disk.run_until_done(told.append, call, 3, factor=2) == 6
    assert [error.errno for error in told] == [errno.EIO]
    assert sleeps.delays[:3] == [FIRST_RETRY_S, 2 * FIRST_RETRY_S, 4 * FIRST_RETRY_S]
    assert sleeps.delays[-1] == GREATEST_RETRY_S


async def test_what_is_no_failure_of_the_storage_is_raised_at_once(
    disk: DiskExecutor, sleeps: Sleeps
) -> None:
    with pytest.raises(ZeroDivisionError):
        await disk.run_until_done(lambda error: None, lambda: 1 // 0)
    assert sleeps.delays == []


async def test_closing_leaves_a_call_that_hangs_and_cancels_those_behind_it() -> None:
    executor = DiskExecutor("test disk")
    began, gate = threading.Event(), threading.Event()

    def hang() -> None:
        began.set()
        gate.wait(10)

    hanging = asyncio.ensure_future(executor.run(hang))
    behind = asyncio.ensure_future(executor.run(lambda: None))
    await asyncio.to_thread(began.wait, 10)
    executor.close()
    with pytest.raises(asyncio.CancelledError):
        await behind
    gate.set()
    await hanging
