"""The parts of a shutdown fit into the whole (decision 38)."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import astuple
from pathlib import Path

import pytest

from oxidicom.app.deadlines import ControlPlaneDeadlines, ShutdownBudget
from oxidicom.cancellation import finish_by
from oxidicom.settings import load

ROOT = Path(__file__).parents[2]
DRAIN_TIMEOUTS_S = [0.0, 1.0, 30.0, 3600.0]
WORKERS = [1, 2, 32]


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("drain_timeout", DRAIN_TIMEOUTS_S)
def test_the_parts_of_a_shutdown_add_up_to_the_whole(drain_timeout: float, workers: int) -> None:
    budget = ShutdownBudget(associations_s=drain_timeout)
    parts = [budget.associations_s, budget.last_instances_s, budget.writer_threads_s]
    if workers > 1:
        parts += [budget.last_reports_s, budget.killed_workers_s]
    parts.append(budget.control_plane_s(workers, elapsed_s=sum(parts)))
    parts.append(budget.control_loop_s)
    assert sum(parts) == pytest.approx(budget.total_s)
    assert all(part > 0 for part in parts[1:])


@pytest.mark.parametrize("workers", WORKERS)
def test_the_control_plane_has_what_parts_before_it_have_left(workers: int) -> None:
    budget = ShutdownBudget(associations_s=30.0)
    assert budget.control_plane_s(workers, elapsed_s=0.1) == budget.after_drain_s
    assert budget.control_plane_s(workers, elapsed_s=33.0) == pytest.approx(2.0)
    least = budget.least_control_plane_s(workers)
    assert budget.control_plane_s(workers, elapsed_s=99.0) == least
    assert least >= 0.5


@pytest.mark.parametrize("within", [0.5, 0.7, 1.5, 5.0])
def test_the_parts_of_the_control_plane_s_end_follow_each_other_within_its_time(
    within: float,
) -> None:
    deadlines = astuple(ControlPlaneDeadlines.of(within, 100.0))
    assert list(deadlines) == sorted(set(deadlines))
    assert deadlines[0] > 100.0
    assert deadlines[-1] < 100.0 + within


def test_the_documentation_says_how_long_it_takes_after_the_drain_time_out() -> None:
    settings, _ = load({"OXIDICOM_FILES_ROOT": "/data"})
    budget = ShutdownBudget(associations_s=settings.drain_timeout)
    text = (ROOT / "docs/deployment.md").read_text()
    (seconds,) = re.findall(r"`OXIDICOM_DRAIN_TIMEOUT`\s+\((\d+) s\) and ([\d.]+) s", text)
    assert tuple(map(float, seconds)) == (
        settings.drain_timeout,
        budget.after_drain_s + budget.control_loop_s,
    )


# ---- finish_by -----------------------------------------------------------------------------------


async def test_work_that_ends_in_time_gives_its_result() -> None:
    async def work() -> int:
        return 7

    assert await finish_by(time.monotonic() + 10, work()) == 7


async def test_an_exception_of_the_work_is_raised() -> None:
    async def work() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await finish_by(time.monotonic() + 10, work())


async def test_work_that_swallows_its_cancellation_is_left_behind() -> None:
    cancelled, released = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        try:
            await released.wait()
        except asyncio.CancelledError:
            cancelled.set()
            await released.wait()
            raise ValueError("after the deadline") from None

    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    with pytest.raises(TimeoutError):
        await finish_by(time.monotonic() + 0.02, work())
    await asyncio.wait_for(cancelled.wait(), 10)
    released.set()
    await asyncio.sleep(0.01)
    assert faults == [], "nothing is logged of work that was left behind"


async def test_a_deadline_that_has_passed_gives_work_no_time() -> None:
    with pytest.raises(TimeoutError):
        await finish_by(time.monotonic() - 1, asyncio.sleep(10))


async def test_a_cancellation_of_the_caller_cancels_the_work() -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    caller = asyncio.create_task(finish_by(time.monotonic() + 60, work()))
    await asyncio.sleep(0.01)
    caller.cancel()
    await asyncio.wait_for(ended.wait(), 10)
    with pytest.raises(asyncio.CancelledError):
        await caller
