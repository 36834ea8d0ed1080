"""Looks at the outbox's folder from time to time: what a person put back, or a receiver that is no
more left behind, is delivered by whoever finds it.

No inotify, which sees nothing of what another machine does on NFS. A glance asks for the folder's
modification time only; a look reads the names, and takes no more than a hundredth of the time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from oxidicom.notify.outbox_store import Outbox, OutboxScan

GLANCE: Final = 1.0
"""Seconds between two glances."""
LONGEST: Final = 30.0
"""Seconds after which we look whatever the modification time says: some file systems keep none."""
SHARE: Final = 100
"""Times the last look's duration before the next one, if that is longer than GLANCE."""


Visit = tuple[int, OutboxScan | None, float]
"""The folder's modification time, what was found if we looked, and for how many seconds."""


class OutboxScanner:
    """`knows` is called on whatever thread looks, `found` on the loop's, with the names of pending
    entries that are nobody else's. `on_disk` calls what it is given where blocking is allowed."""

    def __init__(
        self,
        outbox: Outbox,
        knows: Callable[[str], bool],
        found: Callable[[list[str]], None],
        on_disk: Callable[[Callable[[], Visit]], Awaitable[Visit]],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._outbox = outbox
        self._knows = knows
        self._found = found
        self._on_disk = on_disk
        self._sleep = sleep
        self._clock = clock
        self._seen: int | None = None
        """The folder's modification time at the last look; None to look in any case."""
        self._looked_at = clock()
        self._pause = GLANCE

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._sleep(self._pause)
            try:
                stamp, look, seconds = await self._on_disk(self._visit)
            except OSError:
                self._pause = LONGEST  # who writes there says what is wrong
                continue
            self._pause = GLANCE
            if look is not None:
                self._seen = None if look.left else stamp
                self._looked_at = self._clock()
                self._pause = min(max(GLANCE, SHARE * seconds), LONGEST)
                if look.names:
                    self._found(look.names)

    def _visit(self) -> Visit:
        stamp = self._outbox.changed_at()
        if stamp == self._seen and self._clock() - self._looked_at < LONGEST:
            return stamp, None, 0.0
        began = time.perf_counter()
        look = self._outbox.look(self._knows)
        return stamp, look, time.perf_counter() - began
