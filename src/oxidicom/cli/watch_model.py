"""Which series `oxidicom watch` shows, and how they stand. No screen and no NATS here."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final

from oxidicom.notify.lonk_messages import LonkKind, LonkMessage

_WINDOW: Final = 5.0
"""Seconds that a rate is taken over."""

_FORGOTTEN: Final = 60.0
"""Seconds after which one that is done leaves the board."""


class Row:
    def __init__(self, aet: str, uid: str) -> None:
        self.aet = aet
        self.uid = uid
        self.count = 0
        self.done = False
        self.error: str | None = None
        self.changed_at = 0.0
        self._counts: deque[tuple[float, int]] = deque()

    def take(self, heard: LonkMessage, now: float) -> None:
        self.changed_at = now
        if heard.kind is LonkKind.COUNT and heard.ndicom is not None:
            if self.done or heard.ndicom < self.count:  # received once more, from the first
                self.done, self.error = False, None
                self._counts.clear()
            self.count = heard.ndicom
            self._counts.append((now, heard.ndicom))
        elif heard.kind is LonkKind.DONE:
            self.done = True
        elif heard.kind is LonkKind.ERROR:
            self.error = heard.error

    def rate(self, now: float) -> float:
        """Instances per second of late."""
        while len(self._counts) > 1 and now - self._counts[0][0] > _WINDOW:
            self._counts.popleft()
        if self.done or len(self._counts) < 2:
            return 0.0
        then, count = self._counts[0]
        return (self.count - count) / max(now - then, 0.001)


class WatchModel:
    """At most `limit` series: those that changed last, in the order in which they began."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rows: OrderedDict[tuple[str, str], Row] = OrderedDict()
        self.done = 0
        self.errors = 0
        """Messages, of all time."""

    def take(self, heard: LonkMessage, now: float) -> None:
        key = heard.calling_ae_title, heard.series_instance_uid
        row = self._rows.get(key)
        if row is None:
            if len(self._rows) >= self._limit:
                self._drop_one()
            row = self._rows[key] = Row(*key)
        row.take(heard, now)
        self.done += heard.kind is LonkKind.DONE
        self.errors += heard.kind is LonkKind.ERROR

    def rows(self, now: float) -> list[Row]:
        for key, row in list(self._rows.items()):
            if row.done and now - row.changed_at > _FORGOTTEN:
                del self._rows[key]
        return list(self._rows.values())

    def _drop_one(self) -> None:
        """The one that has been silent for longest, if possible one that is done."""
        key = min(
            self._rows, key=lambda each: (not self._rows[each].done, self._rows[each].changed_at)
        )
        del self._rows[key]
