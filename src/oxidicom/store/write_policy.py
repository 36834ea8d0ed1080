"""Decides whether an instance is written inline, on the loop's thread, or on a writer thread.

Inline writing is the fastest, but each storage call blocks the loop. Writer threads never block it,
but reduce the throughput of a single sender by a quarter (measured).
"""

from __future__ import annotations

from collections import deque
from typing import Final, Literal

WriteMode = Literal["auto", "inline", "threads"]

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
"""Values of f_type in statfs(2) for file systems that store in memory or on a local device."""

SLOW_CALL_NS: Final = 5_000_000
"""Duration in nanoseconds from which a storage call is slow. SLOW_CALLS_TOLERATED slow calls within
SLOW_CALLS_WITHIN_S seconds are tolerated; one more ends inline writing."""
TOO_SLOW_CALL_NS: Final = 20_000_000
"""Duration in nanoseconds from which a single storage call ends inline writing, because it delays
every other association too much."""
SLOW_CALLS_TOLERATED: Final = 2
SLOW_CALLS_WITHIN_S: Final = 1.0
INLINE_AGAIN_S: Final = 30.0
"""Seconds from the event that ended inline writing until mode `auto` writes inline again."""


class WritePolicy:
    """Decides how instances are written, from the write mode and the duration of storage calls.

    `local` is whether all storage is on LOCAL_FILE_SYSTEMS, `fsync` whether files are synced: mode
    `auto` writes inline only if local and not synced. Does no I/O. Times are seconds of one clock.
    """

    def __init__(self, mode: WriteMode, *, local: bool, fsync: bool) -> None:
        self._mode = mode
        self._auto_inline = local and not fsync
        self._slow_calls: deque[float] = deque(maxlen=SLOW_CALLS_TOLERATED + 1)
        self._threads_until = float("-inf")
        self.writes_inline = mode == "inline" or (mode == "auto" and self._auto_inline)
        """Whether instances are written inline: the latest decision, readable without the current
        time. `observe` can end inline writing at once; only `decide` begins it again."""

    @property
    def is_automatic(self) -> bool:
        """Whether the mode is `auto`: instances are written inline or on threads, as `decide`
        says."""
        return self._mode == "auto"

    def decide(self, now: float) -> bool:
        """Return whether to write inline at the time `now`; in mode `auto`, set `writes_inline`."""
        if self._mode != "auto":
            return self._mode == "inline"
        self.writes_inline = self._auto_inline and now >= self._threads_until
        return self.writes_inline

    def observe(self, slowest_ns: int, now: float) -> None:
        """Record the longest uninterrupted run of storage calls of one instance, in nanoseconds.

        Ends inline writing if the storage is too slow for it.
        """
        if slowest_ns < SLOW_CALL_NS:
            return
        self._slow_calls.append(now)
        if slowest_ns >= TOO_SLOW_CALL_NS or (
            len(self._slow_calls) > SLOW_CALLS_TOLERATED
            and now - self._slow_calls[0] < SLOW_CALLS_WITHIN_S
        ):
            self._threads_until = now + INLINE_AGAIN_S
            self.writes_inline = self._mode == "inline"
