"""Polls the outbox folder for entries requeued by an operator or left by a dead receiver.

inotify would not report changes by another machine on NFS. A poll reads only the modification time
of the folder; if that has changed, a scan reads the names. Scans take about a hundredth of the time
at most, except those of over 0.3 s: the pause between two scans is never over 30 s.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from oxidicom.notify.outbox_store import Outbox, OutboxScan

OUTBOX_POLL_INTERVAL_S: Final = 1.0
"""Seconds from one poll to the next; after a long scan, the pause is longer."""
OUTBOX_SCAN_INTERVAL_S: Final = 30.0
"""Seconds after which the folder is scanned even if its modification time is the same: some file
systems do not update it."""
SCAN_PAUSE_FACTOR: Final = 100
"""Least pause after a scan, in multiples of the scan's duration."""


class OutboxPoll(NamedTuple):
    """The result of one poll."""

    changed_at_ns: int
    """The folder's modification time, in nanoseconds."""
    scan: OutboxScan | None
    """The result of the scan; None if the folder was not scanned."""
    scan_seconds: float
    """Duration of the scan in seconds; 0.0 without one."""


class OutboxScanner:
    """Calls `on_found` with the names of pending entries that no receiver seems to deliver.

    `is_known` returns whether this receiver delivers the entry of a name; it is called on the
    thread of `on_disk`, which runs a function that may block. `sleep` and `clock` are in seconds.
    """

    def __init__(
        self,
        outbox: Outbox,
        is_known: Callable[[str], bool],
        on_found: Callable[[list[str]], None],
        on_disk: Callable[[Callable[[], OutboxPoll]], Awaitable[OutboxPoll]],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._outbox = outbox
        self._is_known = is_known
        self._on_found = on_found
        self._on_disk = on_disk
        self._sleep = sleep
        self._clock = clock
        self._seen_at_ns: int | None = None
        """The folder's modification time at the last scan; None to scan at the next poll."""
        self._scanned_at = clock()
        self._pause = OUTBOX_POLL_INTERVAL_S

    async def run(self) -> None:
        """Poll until cancelled."""
        while True:
            await self._sleep(self._pause)
            try:
                changed_at_ns, scan, seconds = await self._on_disk(self._poll)
            except OSError:
                # Not logged here: the outbox writer logs errors of the folder.
                self._pause = OUTBOX_SCAN_INTERVAL_S
                continue
            self._pause = OUTBOX_POLL_INTERVAL_S
            if scan is not None:
                self._seen_at_ns = None if scan.young_entries else changed_at_ns
                self._scanned_at = self._clock()
                pause = max(OUTBOX_POLL_INTERVAL_S, SCAN_PAUSE_FACTOR * seconds)
                self._pause = min(pause, OUTBOX_SCAN_INTERVAL_S)
                if scan.names:
                    self._on_found(scan.names)

    def _poll(self) -> OutboxPoll:
        changed_at_ns = self._outbox.changed_at_ns()
        unchanged = changed_at_ns == self._seen_at_ns
        if unchanged and self._clock() - self._scanned_at < OUTBOX_SCAN_INTERVAL_S:
            return OutboxPoll(changed_at_ns, None, 0.0)
        began = time.perf_counter()
        scan = self._outbox.scan(self._is_known)
        return OutboxPoll(changed_at_ns, scan, time.perf_counter() - began)
