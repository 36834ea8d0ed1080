"""The book-keeping of series in reception: records and a clock in, notices out.

A series stays open while any open association has carried it. When the last of them has ended and
the settle time has passed, counted from the later of its last instance and the end of its last
association, one reception of the series is complete. What arrives afterwards begins another.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterable
from itertools import count
from typing import Final

from oxidicom.ports import (
    AssociationEnded,
    InstanceRefused,
    InstanceStored,
    Notice,
    OpenSeries,
    SeriesCompleted,
    SeriesFailed,
    SeriesInfo,
    SeriesKey,
    SeriesProgress,
)

ENDED_REMEMBERED: Final = 16_384
"""Associations. A straggler's record trails the end of its association by milliseconds."""


class _SeriesSession:
    """One series from its first instance to its completion."""

    __slots__ = (
        "associations",
        "attempted",
        "began",
        "deadline",
        "expected",
        "instances",
        "not_before",
        "queued",
        "series",
        "touched",
        "users",
    )

    def __init__(self, series: SeriesInfo, at: float) -> None:
        self.series = series
        self.instances: set[str] = set()
        self.attempted = 0
        self.expected: int | None = None
        self.users: set[str] = set()
        """Open associations that have carried it."""
        self.associations: dict[str, None] = {}
        """All associations that have carried it, in order of appearance."""
        self.began = self.touched = at
        self.not_before = at
        """A recovered one does not settle before this."""
        self.deadline: float | None = None
        """None while `users` keep it open."""
        self.queued: float | None = None
        """The time of its one valid entry in the queue of deadlines."""

    def completed(self) -> SeriesCompleted:
        return SeriesCompleted(
            self.series,
            len(self.instances),
            tuple(self.associations),
            self.attempted,
            self.expected,
        )

    def line(self) -> OpenSeries:
        return OpenSeries(
            self.series,
            len(self.instances),
            len(self.users),
            self.expected,
            self.began,
            self.touched,
        )


class SeriesTracker:
    """Call `due` at `next_deadline`; every other method answers what its record leads to.

    Times are the seconds of the records' `at`. No call costs more than the series it concerns,
    however many others are open.
    """

    def __init__(self, settle: float, recovery_settle: float) -> None:
        self._settle = settle
        self._recovery_settle = max(settle, recovery_settle)
        self._receptions: dict[SeriesKey, _SeriesSession] = {}
        self._carried: dict[str, set[_SeriesSession]] = {}
        """By open association."""
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._queue: list[tuple[float, int, _SeriesSession]] = []
        """A heap by deadline. Deadlines mostly move later, so an entry may come up too early;
        it is then put back, instead of being replaced at each touch."""
        self._serial = count()
        self._latest: _SeriesSession | None = None
        self._latest_series: SeriesInfo | None = None
        """What the latest record gave as its series: most give the same one again."""

    def stored(self, report: InstanceStored) -> list[Notice]:
        series = report.series
        reception = self._latest
        if reception is None or series is not self._latest_series:
            reception = self._reception_of(series, report.at)
        reception.attempted += 1
        instances = reception.instances
        before = len(instances)
        instances.add(report.sop_instance_uid)
        received = len(instances)
        notices: list[Notice] = []
        if received != before:
            notices.append(SeriesProgress(reception.series, received, received == 1))
        if report.association_id in reception.users and report.at >= reception.touched:
            reception.touched = report.at
        else:
            notices += self._touch(reception, report.association_id, report.at)
        return notices

    def _reception_of(self, series: SeriesInfo, at: float) -> _SeriesSession:
        key = series.key
        reception = self._receptions.get(key)
        if reception is None:
            reception = self._receptions[key] = _SeriesSession(series, at)
        self._latest, self._latest_series = reception, series
        return reception

    def refused(self, report: InstanceRefused) -> list[Notice]:
        """A refused instance opens no series, but its sender keeps an open one open."""
        uid = report.series_instance_uid
        notices: list[Notice] = [SeriesFailed(report.calling_ae_title, uid, report.error)]
        if uid is not None:
            reception = self._receptions.get(SeriesKey(report.pacs_name, uid))
            if reception is not None:
                reception.attempted += 1
                notices += self._touch(reception, report.association_id, report.at)
        return notices

    def expect(self, key: SeriesKey, count: int) -> None:
        """The PACS has so many instances of a series that is open; otherwise nothing."""
        reception = self._receptions.get(key)
        if reception is not None:
            reception.expected = count

    def association_ended(self, report: AssociationEnded) -> list[Notice]:
        """However it ended (decision 31). Completes a series at once only if settling takes 0 s."""
        return self.associations_lost((report.association_id,), report.at)

    def associations_lost(self, association_ids: Iterable[str], at: float) -> list[Notice]:
        """As `association_ended`, for those whose worker died without a word."""
        notices: list[Notice] = []
        for association_id in association_ids:
            self._remember_ended(association_id)
            for reception in self._carried.pop(association_id, ()):
                reception.users.remove(association_id)
                reception.touched = max(reception.touched, at)
                if not reception.users:
                    notices += self._begin_settling(reception)
        return notices

    def recovered(
        self,
        series: SeriesInfo,
        associations: Iterable[str],
        at: float,
        instances: Iterable[str] = (),
    ) -> None:
        """A series that was open when an earlier process, or a worker, died; `at` is when we began
        to listen, or heard of it.

        It settles for the recovery time and, touched again, not before that is over (decision 32):
        a sender that resends may do so in many short associations. `instances` are the SOP
        Instance UIDs already in its folder, so that its count goes on from there.
        """
        reception = self._receptions.get(series.key)
        if reception is None:
            reception = self._receptions[series.key] = _SeriesSession(series, at)
        known = len(reception.instances)
        reception.instances.update(instances)
        reception.attempted += len(reception.instances) - known
        reception.not_before = max(reception.not_before, at + self._recovery_settle)
        if not reception.users:
            settled = reception.touched + self._settle
            self._enqueue(reception, max(settled, reception.not_before))
        reception.associations.update(dict.fromkeys(associations))

    def has_ended(self, association_id: str) -> bool:
        """Of late; all that it stored has been told."""
        return association_id in self._ended

    def series_of(self, key: SeriesKey) -> SeriesInfo | None:
        """What is said of a series that is open; may be asked from any thread."""
        reception = self._receptions.get(key)
        return None if reception is None else reception.series

    def expected_of(self, key: SeriesKey) -> int | None:
        """What `expect` was told of a series that is open."""
        reception = self._receptions.get(key)
        return None if reception is None else reception.expected

    def carrier_of(self, key: SeriesKey) -> str | None:
        """The first association that has carried a series that is open."""
        reception = self._receptions.get(key)
        return None if reception is None else next(iter(reception.associations), None)

    def due(self, now: float) -> list[Notice]:
        """Complete what has settled by `now`."""
        notices: list[Notice] = []
        while (first := self._first_to_settle()) is not None and first[0] <= now:
            notices.append(self._complete(first[1]))
        return notices

    def next_deadline(self) -> float | None:
        """When `due` has something to say, if nothing happens until then."""
        first = self._first_to_settle()
        return None if first is None else first[0]

    def finish_all(self, now: float) -> list[Notice]:
        """Shutdown: complete what has settled by `now`, then every other series without waiting."""
        notices = self.due(now)
        notices += [reception.completed() for reception in self._receptions.values()]
        self._latest = self._latest_series = None
        self._receptions.clear()
        self._carried.clear()
        self._queue.clear()
        return notices

    @property
    def number_open(self) -> int:
        return len(self._receptions)

    def latest(self, most: int) -> list[OpenSeries]:
        """Those that changed last, the latest first."""
        found = heapq.nlargest(most, self._receptions.values(), key=lambda each: each.touched)
        return [reception.line() for reception in found]

    def open_series(self) -> list[OpenSeries]:
        return [reception.line() for reception in self._receptions.values()]

    def _touch(self, reception: _SeriesSession, association_id: str, at: float) -> list[Notice]:
        if at > reception.touched:
            reception.touched = at
        if association_id in reception.users:
            return []
        reception.associations[association_id] = None
        if association_id not in self._ended:
            reception.users.add(association_id)
            self._carried.setdefault(association_id, set()).add(reception)
            reception.deadline = None
        elif not reception.users:
            return self._begin_settling(reception)
        return []

    def _begin_settling(self, reception: _SeriesSession) -> list[Notice]:
        deadline = max(reception.touched + self._settle, reception.not_before)
        if deadline <= reception.touched:
            return [self._complete(reception)]
        self._enqueue(reception, deadline)
        return []

    def _enqueue(self, reception: _SeriesSession, deadline: float) -> None:
        reception.deadline = deadline
        if reception.queued is None or reception.queued > deadline:
            reception.queued = deadline
            heapq.heappush(self._queue, (deadline, next(self._serial), reception))

    def _first_to_settle(self) -> tuple[float, _SeriesSession] | None:
        while self._queue:
            at, _, reception = self._queue[0]
            if at == reception.deadline:
                return at, reception
            heapq.heappop(self._queue)
            if at == reception.queued:
                reception.queued = None
                if reception.deadline is not None:
                    self._enqueue(reception, reception.deadline)
        return None

    def _complete(self, reception: _SeriesSession) -> SeriesCompleted:
        completed = reception.completed()
        self._latest = self._latest_series = None
        del self._receptions[reception.series.key]
        # An entry in the queue may outlive it for a while, and must not keep the UIDs in memory.
        reception.deadline = None
        reception.instances.clear()
        return completed

    def _remember_ended(self, association_id: str) -> None:
        """So that a straggler from another worker does not wait for an end that has been."""
        self._ended[association_id] = None
        if len(self._ended) > ENDED_REMEMBERED:
            self._ended.popitem(last=False)
