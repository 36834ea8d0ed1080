"""Executors that run storage calls: one runs them inline, the others on writer threads.

`WritePolicy` decides which of them an instance uses.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, Protocol

from oxidicom._writer import filesystem_type
from oxidicom.below_root import open_root
from oxidicom.settings import Settings
from oxidicom.store.write_policy import LOCAL_FILE_SYSTEMS, TOO_SLOW_CALL_NS, WritePolicy
from oxidicom.thread_names import NamedThread

HANGING_CALL_S: Final = TOO_SLOW_CALL_NS / 1e9
"""Seconds after which a job that is still running counts as hanging in a storage call."""

GIL_SWITCH_S: Final = 0.0005
"""Seconds for which a thread may hold the GIL while another one waits for it. A writer thread takes
the GIL again after each storage call, forty times for the first instance of a series: with the
interpreter's default of 5 ms these waits add up to 0.2 s while another peer keeps the loop busy
(promise 6)."""

Done = Callable[[Any, BaseException | None], None]


def ignore(result: object, error: BaseException | None) -> None:
    """Do nothing: the completion of jobs that have no result and whose errors do not matter."""


class StorageExecutor(Protocol):
    """Runs jobs one after the other, in the order of the calls of `run`."""

    def run(self, job: Callable[[], Any], done: Done) -> None:
        """Run `job`, then call `done(result, None)` or `done(None, error)` on the loop's thread."""


class InlineExecutor:
    """Runs each job at once, on the caller's thread."""

    def run(self, job: Callable[[], Any], done: Done) -> None:
        try:
            result = job()
        except Exception as error:
            done(None, error)
        else:
            done(result, None)


class ThreadExecutor:
    """Runs jobs on one thread of its own. `clock` returns seconds."""

    def __init__(self, name: str, completions: Completions, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.busy_since: float | None = None
        """Time at which the running job began; None between jobs."""
        self._jobs: SimpleQueue[tuple[Callable[[], Any], Done] | None] = SimpleQueue()
        self._completions = completions
        self._thread = NamedThread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def run(self, job: Callable[[], Any], done: Done) -> None:
        self._completions.outstanding += 1
        self._jobs.put((job, done))

    def end(self) -> None:
        """Let the thread end once it has run all jobs that it was given before this call."""
        self._jobs.put(None)

    def join(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the thread to end; return whether it has."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None:
            job, done = item
            result = failure = None
            self.busy_since = self._clock()
            try:
                result = job()
            except Exception as error:
                failure = error
            # Cleared first: otherwise the loop could take a job that has ended for a hanging one.
            self.busy_since = None
            self._completions.put(done, result, failure)
            # A finished job must not keep its buffers alive while the thread waits for the next.
            del item, job, done, result, failure


class Completions:
    """Passes the results of jobs from the writer threads to the loop, which calls their `done`.

    Results that arrive close together share one wake-up of the loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ready: deque[tuple[Done, Any, BaseException | None]] = deque()
        self._woken = False
        self.outstanding = 0
        """Number of jobs given to writer threads whose results the loop has not received yet. Used
        on the loop's thread only."""

    def put(self, done: Done, result: Any, error: BaseException | None) -> None:
        """Schedule `done(result, error)` on the loop; does nothing if the loop is closed.

        Called on a writer thread.
        """
        self._ready.append((done, result, error))
        if not self._woken:
            self._woken = True
            try:
                self._loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:
                # The loop is closed: a second signal ended the process during a write.
                self._ready.clear()

    def _deliver(self) -> None:
        # Cleared first: a completion that arrives during the delivery needs another wake-up.
        self._woken = False
        while self._ready:
            done, result, error = self._ready.popleft()
            self.outstanding -= 1
            try:
                done(result, error)
            except Exception as bug:
                # Continue: the queue also holds completions of other associations.
                self._loop.call_exception_handler(
                    {"message": "a storage completion failed", "exception": bug}
                )


class StorageExecutors:
    """The inline executor and up to `threads` writer threads of a process.

    A thread is started when it is first needed. `clock` returns seconds.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        policy: WritePolicy,
        threads: int,
        clock: Callable[[], float],
    ) -> None:
        self.policy = policy
        self.abandoned = False
        """Whether `stop` returned while threads were still in a storage call."""
        self._clock = clock
        self._inline = InlineExecutor()
        self.completions = Completions(loop)
        self._max_threads = max(1, threads)
        self._threads: list[ThreadExecutor] = []
        self._next = 0

    def choose(self) -> StorageExecutor:
        """Return the executor for the jobs of one instance, as the policy decides.

        In mode `auto` it is a writer thread while another one hangs in a storage call.
        """
        now = self._clock()
        if self.policy.decide(now) and not (
            self.completions.outstanding and self.policy.is_automatic and self._is_hanging(now)
        ):
            return self._inline
        return self.next_thread()

    def _is_hanging(self, now: float) -> bool:
        """Return whether a writer thread has been running one job for more than HANGING_CALL_S."""
        return any(
            (since := thread.busy_since) is not None and now - since > HANGING_CALL_S
            for thread in self._threads
        )

    def next_thread(self) -> StorageExecutor:
        """Return the writer threads in turn, after starting another one if there may be more."""
        if len(self._threads) < self._max_threads:
            name = f"ox-writer-{len(self._threads)}"
            self._threads.append(ThreadExecutor(name, self.completions, self._clock))
        self._next = (self._next + 1) % len(self._threads)
        return self._threads[self._next]

    def is_inline(self, executor: StorageExecutor) -> bool:
        """Return whether `executor` is the inline one."""
        return executor is self._inline

    def stop(self, timeout: float) -> None:
        """Wait up to `timeout` seconds until the threads have run all their jobs and ended.

        Sets `abandoned` if some have not.
        """
        for thread in self._threads:
            thread.end()
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            if not thread.join(max(0.0, deadline - time.monotonic())):
                self.abandoned = True
        self._threads.clear()


def make_executors(settings: Settings, threads: int) -> StorageExecutors:
    """Return the executors of this process: the inline one and up to `threads` writer threads.

    Their completions run on the running loop. Sets the interpreter's switch interval. Raises
    OSError if the files root or the state folder cannot be opened.
    """
    # Both must be local, because the same executor writes instances and journal entries.
    local = all(map(_is_local, (settings.files_root, settings.state_dir)))
    policy = WritePolicy(settings.write_mode, local=local, fsync=settings.fsync)
    sys.setswitchinterval(GIL_SWITCH_S)
    return StorageExecutors(asyncio.get_running_loop(), policy, threads, time.monotonic)


def _is_local(folder: Path) -> bool:
    fd = open_root(folder)
    try:
        return filesystem_type(fd) in LOCAL_FILE_SYSTEMS
    finally:
        os.close(fd)
