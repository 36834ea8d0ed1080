"""Two ways to run storage calls, behind one interface: inline, or on writer threads.

Inline, on the loop's thread, reaches the speed of the machine but ties the loop to the storage;
threads cost a quarter of a single sender's throughput and tie it to nothing (measured).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final, Literal, Protocol

WriteMode = Literal["auto", "inline", "threads"]

# statfs(2) f_type of file systems whose calls end in memory or on a local device.
LOCAL_FILE_SYSTEMS: Final = frozenset(
    {
        0xEF53,  # ext2, ext3, ext4
        0x58465342,  # XFS
        0x9123683E,  # Btrfs
        0x01021994,  # tmpfs
        0x858458F6,  # ramfs
        0x794C7630,  # overlayfs
        0x2FC12FC1,  # ZFS
        0xF2F52010,  # F2FS
        0xCA451A4E,  # bcachefs
        0x3153464A,  # JFS
        0x52654973,  # ReiserFS
    }
)

SLOW_NS: Final = 5_000_000
"""A storage call longer than this is slow; three within a second are too many."""
TOO_SLOW_NS: Final = 20_000_000
"""One call this long already delays every other association too much."""
STUCK: Final = TOO_SLOW_NS / 1e9
"""Seconds after which a call that has not returned is too slow already."""
QUIET: Final = 30.0
"""Seconds without a slow call after which `auto` writes inline again."""

Done = Callable[[Any, BaseException | None], None]


def ignore(result: object, error: BaseException | None) -> None:
    """What becomes of it is nobody's concern."""


class StorageExecutor(Protocol):
    """Runs jobs one after the other, in the order of `run`."""

    def run(self, job: Callable[[], Any], done: Done) -> None:
        """`done(result, None)` or `done(None, error)` follows on the loop's thread."""


class InlineExecutor:
    """At once, on the caller's thread."""

    def run(self, job: Callable[[], Any], done: Done) -> None:
        try:
            result = job()
        except Exception as error:
            done(None, error)
        else:
            done(result, None)


class ThreadExecutor:
    """One thread of its own; many completions share one wake-up of the loop."""

    def __init__(self, name: str, completions: Completions, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.busy_since: float | None = None
        """When the job that runs now began."""
        self._jobs: SimpleQueue[tuple[Callable[[], Any], Done] | None] = SimpleQueue()
        self._completions = completions
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def run(self, job: Callable[[], Any], done: Done) -> None:
        self._completions.outstanding += 1
        self._jobs.put((job, done))

    def end(self) -> None:
        """Once the jobs are done."""
        self._jobs.put(None)

    def join(self, timeout: float) -> bool:
        """Whether the thread has ended within `timeout` seconds."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None:
            job, done = item
            self.busy_since = self._clock()
            try:
                result = job()
            except Exception as error:
                self._completions.put(done, None, error)
            else:
                self._completions.put(done, result, None)
            self.busy_since = None
            # Nothing of a finished job is kept alive while the thread waits for the next.
            del item, job, done
            result = None


class Completions:
    """Carries results from the writer threads to the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ready: deque[tuple[Done, Any, BaseException | None]] = deque()
        self._woken = False
        self.outstanding = 0
        """Jobs begun and not delivered; of the loop's thread."""

    def put(self, done: Done, result: Any, error: BaseException | None) -> None:
        self._ready.append((done, result, error))
        if not self._woken:
            self._woken = True
            try:
                self._loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:
                # The loop is closed: a second signal ended the process amid a write.
                self._ready.clear()

    def _deliver(self) -> None:
        # Cleared first: a completion that comes while we deliver asks for another wake-up.
        self._woken = False
        while self._ready:
            done, result, error = self._ready.popleft()
            self.outstanding -= 1
            try:
                done(result, error)
            except Exception as bug:
                # One association's trouble: the others' completions are behind it.
                self._loop.call_exception_handler(
                    {"message": "a storage completion failed", "exception": bug}
                )


class WritePolicy:
    """Decides how each instance is written; sans-IO, times in seconds of one clock."""

    def __init__(self, mode: WriteMode, *, local: bool, fsync: bool) -> None:
        self._mode = mode
        self._auto_inline = local and not fsync
        self._slow_calls: deque[float] = deque(maxlen=3)
        self._threads_until = float("-inf")
        self.quick = mode == "inline" or (mode == "auto" and self._auto_inline)
        """Inline, without a look at the clock. Comes back with a look at it."""

    @property
    def may_change(self) -> bool:
        """Whether it is up to us who writes."""
        return self._mode == "auto"

    def inline(self, now: float) -> bool:
        if self._mode != "auto":
            return self._mode == "inline"
        self.quick = self._auto_inline and now >= self._threads_until
        return self.quick

    def observe(self, slowest_ns: int, now: float) -> None:
        """Of each instance: its longest stretch of storage calls."""
        if slowest_ns < SLOW_NS:
            return
        self._slow_calls.append(now)
        if slowest_ns >= TOO_SLOW_NS or (
            len(self._slow_calls) == 3 and now - self._slow_calls[0] < 1.0
        ):
            self._threads_until = now + QUIET
            self.quick = self._mode == "inline"


class Writers:
    """Hands out lanes: the inline one, or the writer threads in turn."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        policy: WritePolicy,
        threads: int,
        clock: Callable[[], float],
    ) -> None:
        self.policy = policy
        self.abandoned = False
        """Threads were left behind amid a storage call that never returned."""
        self._clock = clock
        self._inline = InlineExecutor()
        self.completions = Completions(loop)
        self._most = max(1, threads)
        self._threads: list[ThreadExecutor] = []
        self._next = 0

    def lane(self) -> StorageExecutor:
        """For one instance, all of whose jobs run in it, in order."""
        now = self._clock()
        if self.policy.inline(now) and not (
            self.completions.outstanding and self.policy.may_change and self._stuck(now)
        ):
            return self._inline
        return self.thread_lane()

    def _stuck(self, now: float) -> bool:
        """Whether a thread waits for the storage right now: the loop's would have to wait too."""
        return any(
            (since := thread.busy_since) is not None and now - since > STUCK
            for thread in self._threads
        )

    def thread_lane(self) -> StorageExecutor:
        if len(self._threads) < self._most:
            name = f"writer-{len(self._threads)}"
            self._threads.append(ThreadExecutor(name, self.completions, self._clock))
        self._next = (self._next + 1) % len(self._threads)
        return self._threads[self._next]

    def is_inline(self, lane: StorageExecutor) -> bool:
        return lane is self._inline

    def stop(self, timeout: float) -> None:
        """End the threads once their jobs are done; leave them behind after `timeout` seconds."""
        for thread in self._threads:
            thread.end()
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            if not thread.join(max(0.0, deadline - time.monotonic())):
                self.abandoned = True
        self._threads.clear()
