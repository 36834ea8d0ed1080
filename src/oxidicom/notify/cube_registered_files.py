"""Which files of which series CUBE has been told of in this run; bounded, so it may forget."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Final

from oxidicom.ports import SeriesKey

MOST_NAMES: Final = 200_000
"""Of all series together. What is forgotten is pushed again, and CUBE says that it has it."""


class SeriesRegistrations:
    """One series, from its first push to the end of its publication."""

    __slots__ = ("done", "expected_told", "failed", "listed_at", "publishing", "turn")

    def __init__(self) -> None:
        self.done: set[str] = set()
        """Names of files that CUBE has."""
        self.failed: set[str] = set()
        """Names that were tried in vain; their turn comes after the others'."""
        self.expected_told = False
        """Whether CUBE has the metadata of how many instances are expected."""
        self.listed_at: float | None = None
        self.publishing = 0
        """Publications under way: nothing is pushed early meanwhile."""
        self.turn = asyncio.Lock()
        """Whose turn it is to push."""


class RegisteredFiles:
    """Series by key, the one that was asked for last at the end."""

    def __init__(self, most_names: int = MOST_NAMES) -> None:
        self._most_names = most_names
        self._series: OrderedDict[SeriesKey, SeriesRegistrations] = OrderedDict()
        self._names = 0
        """And one for each series, which costs memory even without names."""

    def __len__(self) -> int:
        return self._names

    def of(self, key: SeriesKey) -> SeriesRegistrations:
        pushes = self._series.get(key)
        if pushes is None:
            pushes = self._series[key] = SeriesRegistrations()
            self._names += 1
            self._forget_oldest()
        self._series.move_to_end(key)
        return pushes

    def peek(self, key: SeriesKey) -> SeriesRegistrations | None:
        """If anything is known of the series."""
        return self._series.get(key)

    def add(self, key: SeriesKey, name: str, *, done: bool) -> None:
        """CUBE has the file, or was told of it in vain."""
        pushes = self.of(key)
        before = len(pushes.done) + len(pushes.failed)
        if done:
            pushes.failed.discard(name)
            pushes.done.add(name)
        else:
            pushes.failed.add(name)
        self._names += len(pushes.done) + len(pushes.failed) - before
        self._forget_oldest()

    def forget(self, key: SeriesKey) -> None:
        """It is published: whoever sends it again may have removed it from CUBE meanwhile."""
        pushes = self._series.pop(key, None)
        if pushes is not None:
            self._names -= 1 + len(pushes.done) + len(pushes.failed)

    def _forget_oldest(self) -> None:
        gone = []
        for key, pushes in self._series.items():
            if self._names <= self._most_names:
                break
            self._names -= len(pushes.done) + len(pushes.failed)
            pushes.done.clear()
            pushes.failed.clear()
            if not (pushes.publishing or pushes.turn.locked()) and key != next(
                reversed(self._series)
            ):
                gone.append(key)
                self._names -= 1
        for key in gone:
            del self._series[key]
