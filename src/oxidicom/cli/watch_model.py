"""The model of `oxidicom watch`: the series to show and their progress."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final

from oxidicom.notify.lonk_messages import LonkKind, LonkMessage

_RATE_WINDOW_S: Final = 5.0
"""Length in seconds of the time window over which a rate is measured."""

_DONE_SHOWN_S: Final = 60.0
"""Seconds for which a series is still shown after it is done."""


class Row:
    """The progress of one series, by its messages so far."""

    def __init__(self, aet: str, uid: str) -> None:
        self.aet = aet
        self.uid = uid
        self.count = 0
        self.done = False
        self.error: str | None = None
        self.changed_at = 0.0
        """Time of the last message (monotonic clock)."""
        self._counts: deque[tuple[float, int]] = deque()

    def add(self, message: LonkMessage, now: float) -> None:
        """Apply a message of this series; `now` is a time of the monotonic clock."""
        self.changed_at = now
        if message.kind is LonkKind.COUNT and message.ndicom is not None:
            if self.done or message.ndicom < self.count:  # the series is received again
                self.done, self.error = False, None
                self._counts.clear()
            self.count = message.ndicom
            self._counts.append((now, message.ndicom))
        elif message.kind is LonkKind.DONE:
            self.done = True
        elif message.kind is LonkKind.ERROR:
            self.error = message.error

    def rate(self, now: float) -> float:
        """Return the instances per second over the last `_RATE_WINDOW_S` seconds.

        Returns 0 if the series is done or has had fewer than two counts in that time.
        """
        while len(self._counts) > 1 and now - self._counts[0][0] > _RATE_WINDOW_S:
            self._counts.popleft()
        if self.done or len(self._counts) < 2:
            return 0.0
        then, count = self._counts[0]
        return (self.count - count) / max(now - then, 0.001)


class WatchModel:
    """The series to show: at most `limit`, in the order of their first message.

    Before another one is added, the series whose last message is the oldest is dropped, among those
    that are done if any is.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rows: OrderedDict[tuple[str, str], Row] = OrderedDict()
        self.done = 0
        """Number of messages that a series is done, since the start."""
        self.errors = 0
        """Number of error messages since the start."""

    def add(self, message: LonkMessage, now: float) -> None:
        """Apply a message of any series; `now` is a time of the monotonic clock."""
        key = message.calling_ae_title, message.series_instance_uid
        row = self._rows.get(key)
        if row is None:
            if len(self._rows) >= self._limit:
                self._drop_one()
            row = self._rows[key] = Row(*key)
        row.add(message, now)
        self.done += message.kind is LonkKind.DONE
        self.errors += message.kind is LonkKind.ERROR

    def rows(self, now: float) -> list[Row]:
        """Return the series to show, without those that have been done for `_DONE_SHOWN_S`.

        `now` is a time of the monotonic clock.
        """
        for key, row in list(self._rows.items()):
            if row.done and now - row.changed_at > _DONE_SHOWN_S:
                del self._rows[key]
        return list(self._rows.values())

    def _drop_one(self) -> None:
        """Drop the series whose last message is the oldest, among those that are done if any is."""
        key = min(
            self._rows, key=lambda each: (not self._rows[each].done, self._rows[each].changed_at)
        )
        del self._rows[key]
