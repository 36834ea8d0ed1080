"""Records which files CUBE has, for recently used series, up to a number of files."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Final

from oxidicom.ports import SeriesKey

MAX_REMEMBERED_FILES: Final = 200_000
"""Greatest number of files, of all series together. A file that is forgotten is registered again,
and CUBE answers that it is registered already."""


class SeriesRegistrations:
    """State of the registration of one series' files, until the series is published."""

    __slots__ = ("expected_registered", "failed", "listed_at", "lock", "publishing", "registered")

    def __init__(self) -> None:
        self.registered: set[str] = set()
        """Names of files that CUBE has."""
        self.failed: set[str] = set()
        """Names of files whose registration failed; they are tried after the others."""
        self.expected_registered = False
        """Whether the expected number of instances is registered, or is being registered."""
        self.listed_at: float | None = None
        """Time of the last listing by eager registration, in seconds; None before the first."""
        self.publishing = 0
        """Number of publications in progress; above 0, eager registration of the series pauses."""
        self.lock = asyncio.Lock()
        """Held by a task while it registers files of the series."""


class RegisteredFiles:
    """The registered files of each series.

    Above `max_files` in all, those of the least recently used series are forgotten.
    """

    def __init__(self, max_files: int = MAX_REMEMBERED_FILES) -> None:
        self._max_files = max_files
        self._series: OrderedDict[SeriesKey, SeriesRegistrations] = OrderedDict()
        self._size = 0
        """Number of files plus number of series: a series uses memory even without files."""

    def __len__(self) -> int:
        """Return the number of files plus the number of series."""
        return self._size

    def series(self, key: SeriesKey) -> SeriesRegistrations:
        """Return the state of the series, a new one if necessary. This counts as a use of it."""
        known = self._series.get(key)
        if known is None:
            known = self._series[key] = SeriesRegistrations()
            self._size += 1
            self._forget_oldest()
        self._series.move_to_end(key)
        return known

    def get(self, key: SeriesKey) -> SeriesRegistrations | None:
        """Return the state of the series, or None if there is none. Does not count as a use."""
        return self._series.get(key)

    def add(self, key: SeriesKey, name: str, *, registered: bool) -> None:
        """Record that CUBE has the file `name` or, unless `registered`, did not accept it."""
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
        """Forget a published series: CUBE may have deleted its files before it is sent again."""
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
