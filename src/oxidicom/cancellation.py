"""Time limits for calls that may swallow a cancellation, as those of client libraries do.

`asyncio.wait_for` of Python 3.11 discards a cancellation that arrives just when the awaited call
ends (bpo-37658, fixed in 3.12). nats-py opens its connection through it, and also catches
CancelledError in `Client._flush_pending` and `Client._close`. `asyncio.wait`, on which this module
is built, never discards one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final, TypeVar

T = TypeVar("T")

CANCEL_AGAIN_S: Final = 0.5
"""Seconds after which a task that continues after a cancellation is cancelled again."""

CANCELLED_CALL_GRACE_S: Final = 0.1
"""Seconds for which a cancelled call may clean up before its caller continues without it."""

_kept: set[asyncio.Task[Any]] = set()
"""Tasks that may outlive their time limit or their caller; the loop itself holds weak references
only."""


async def end_tasks(
    tasks: Iterable[asyncio.Task[Any]],
    timeout: float,
    *,
    cancel_again_s: float = CANCEL_AGAIN_S,
) -> bool:
    """Cancel `tasks` and wait until they have ended.

    Return True if all have ended within `timeout` seconds; False if some still run, and then they
    are left running. Exceptions of the tasks are ignored. `cancel_again_s` must be more than the
    seconds that a task needs to clean up after a cancellation, because a second one would interrupt
    that.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    pending = set(tasks)
    for task in pending:
        # Before the wait, because the caller may be cancelled during it.
        _keep(task)
    while pending and (remaining := deadline - loop.time()) > 0:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=min(remaining, cancel_again_s))
    return not pending


async def run_within(call: Coroutine[Any, Any, object], timeout: float | None) -> bool:
    """Run `call` in a new task; return True if it returned within `timeout` seconds.

    Return False if it did not or was cancelled. A `timeout` of None means no time limit. When the
    timeout passes or the caller is cancelled, `call` is cancelled; if it still runs
    CANCELLED_CALL_GRACE_S later, it is left running. Raises what `call` raises.
    """
    task = await _run(call, timeout, CANCELLED_CALL_GRACE_S)
    if not task.done() or task.cancelled():
        return False
    task.result()
    return True


async def finish_by(
    deadline: float,
    call: Coroutine[Any, Any, T],
    clock: Callable[[], float] = time.monotonic,
) -> T:
    """Return what `call` returns, or raise TimeoutError at `deadline`, a time of `clock`.

    A call that has not ended by then is cancelled, without waiting for its end. Raises what `call`
    raises.
    """
    task = await _run(call, max(0.0, deadline - clock()), 0.0)
    if not task.done():
        raise TimeoutError
    return task.result()


async def _run(
    call: Coroutine[Any, Any, T], timeout: float | None, grace_s: float
) -> asyncio.Task[T]:
    """Run `call` in a new task, and return the task when it has ended.

    After `timeout` seconds the task is cancelled, and returned `grace_s` seconds later at most.
    """
    task = asyncio.ensure_future(call)
    # Before the wait, because the caller may be cancelled during it.
    _keep(task)
    try:
        await asyncio.wait([task], timeout=timeout)
    finally:
        if not task.done():
            task.cancel()
            if grace_s:
                await asyncio.wait([task], timeout=grace_s)
    return task


def _keep(task: asyncio.Task[Any]) -> None:
    """Keep a reference to the task until it ends, because its caller may end first."""
    _kept.add(task)
    task.add_done_callback(_kept.discard)
    task.add_done_callback(_retrieve_exception)


def _retrieve_exception(task: asyncio.Task[Any]) -> None:
    """Retrieve the exception of an ended task; asyncio would log it as unretrieved otherwise."""
    if not task.cancelled():
        task.exception()
