"""The files of each series that CUBE has, as far as this run knows; bounded, so it may forget."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Final

from oxidicom.ports import SeriesKey

MAX_REMEMBERED_FILES: Final = 200_000
"""Files of all series together. A file that is forgotten is registered again, and CUBE answers that
it has it."""


class SeriesRegistrations:
    """One series, from its first registered file to the end of its publication."""

    __slots__ = ("expected_registered", "failed", "listed_at", "lock", "publishing", "registered")

    def __init__(self) -> None:
        self.registered: set[str] = set()
        """Names of files that CUBE has."""
        self.failed: set[str] = set()
        """Names of files that CUBE did not take; they are tried after the others."""
        self.expected_registered = False
        """Whether CUBE has the custom metadata of how many instances are expected."""
        self.listed_at: float | None = None
        """When the series folder was last listed, by the eager registrar's clock, in seconds."""
        self.publishing = 0
        """Number of publications in progress; eager registration of the series pauses meanwhile."""
        self.lock = asyncio.Lock()
        """Held by the one task that registers files of the series."""


class RegisteredFiles:
    """The registered files of each series; forgets those of the least recently used series first.

    At most `max_files` are remembered.
    """

    def __init__(self, max_files: int = MAX_REMEMBERED_FILES) -> None:
        self._max_files = max_files
        self._series: OrderedDict[SeriesKey, SeriesRegistrations] = OrderedDict()
        self._size = 0
        """Number of files, and one for each series, which costs memory even without files."""

    def __len__(self) -> int:
        return self._size

    def series(self, key: SeriesKey) -> SeriesRegistrations:
        """Return what is known of the series, which becomes the most recently used one."""
        known = self._series.get(key)
        if known is None:
            known = self._series[key] = SeriesRegistrations()
            self._size += 1
            self._forget_oldest()
        self._series.move_to_end(key)
        return known

    def get(self, key: SeriesKey) -> SeriesRegistrations | None:
        """Return what is known of the series, or None."""
        return self._series.get(key)

    def add(self, key: SeriesKey, name: str, *, registered: bool) -> None:
        """Note that CUBE has the file, or did not take it."""
        known = self.series(key)
        before = len(known.registered) + len(known.failed)
        if registered:
            known.failed.discard(name)
            known.registered.add(name)
        else:
            known.failed.add(name)
        self._size += len(known.registered) + len(known.failed) - before
        self._forget_oldest()

    def forget(self, key: SeriesKey) -> None:
        """Forget a series that is published: if it is sent again, CUBE may have removed it."""
        known = self._series.pop(key, None)
        if known is not None:
            self._size -= 1 + len(known.registered) + len(known.failed)

    def _forget_oldest(self) -> None:
        forgotten = []
        for key, known in self._series.items():
            if self._size <= self._max_files:
                break
            self._size -= len(known.registered) + len(known.failed)
            known.registered.clear()
            known.failed.clear()
            if not (known.publishing or known.lock.locked()) and key != next(
                reversed(self._series)
            ):
                forgotten.append(key)
                self._size -= 1
        for key in forgotten:
            del self._series[key]
