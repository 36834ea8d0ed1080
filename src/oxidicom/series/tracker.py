"""The series tracker: records which series are open and decides when each is complete. It takes
reports and times, and returns notices.

A session of a series begins with an instance. It is complete when all associations that have
carried the series have ended and the settle time has passed since the last instance or the end of
the last association, whichever is later. A later instance begins another session.
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

MAX_ENDED_ASSOCIATIONS: Final = 16_384
"""Number of ended associations that are remembered. A report from another worker may arrive
milliseconds after the end of its association."""


class _SeriesSession:
    """One session of a series, from its first instance to its completion."""

    __slots__ = (
        "associations",
        "attempted",
        "began",
        "carriers",
        "changed_at",
        "deadline",
        "expected",
        "instances",
        "not_before",
        "queued",
        "series",
    )

    def __init__(self, series: SeriesInfo, at: float) -> None:
        self.series = series
        self.instances: set[str] = set()
        self.attempted = 0
        self.expected: int | None = None
        self.carriers: set[str] = set()
        """Identifiers of open associations that have carried the series."""
        self.associations: dict[str, None] = {}
        """Identifiers of all associations that have carried the series, in order of their first
        reports; a dictionary, because a set has no order."""
        self.began = at
        self.changed_at = at
        """Time of the last instance or the last end of an association, whichever is later."""
        self.not_before = at
        """Earliest time at which the session may be complete (decision 32); only a recovered
        session has to wait for it."""
        self.deadline: float | None = None
        """Time at which the session is complete; None while it has open associations in
        `carriers`."""
        self.queued: float | None = None
        """Deadline in the one valid entry that the session has in the tracker's queue; None if it
        has none."""

    def completed(self) -> SeriesCompleted:
        """Return the notice that the session is complete."""
        return SeriesCompleted(
            self.series,
            len(self.instances),
            tuple(self.associations),
            self.attempted,
            self.expected,
        )

    def status(self) -> OpenSeries:
        """Return the record of the session for the status board."""
        return OpenSeries(
            self.series,
            len(self.instances),
            len(self.carriers),
            self.expected,
            self.began,
            self.changed_at,
        )


class SeriesTracker:
    """The open series of a receiver.

    Call `due` at the time that `next_deadline` returns. Methods that take a report return the
    notices that it causes. Times are seconds of the clock of the reports' `at`; `settle` and
    `recovery_settle` are in seconds. The cost of a report hardly depends on how many other series
    are open.
    """

    def __init__(self, settle: float, recovery_settle: float) -> None:
        self._settle = settle
        self._recovery_settle = max(settle, recovery_settle)
        self._sessions: dict[SeriesKey, _SeriesSession] = {}
        self._carried: dict[str, set[_SeriesSession]] = {}
        """The sessions that each open association has carried, keyed by association identifier."""
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._queue: list[tuple[float, int, _SeriesSession]] = []
        """A heap of (deadline, serial number, session). Most changes make a deadline later. The
        entry is not moved then, but queued again when it reaches the top too early."""
        self._serial = count()
        self._latest: _SeriesSession | None = None
        self._latest_series: SeriesInfo | None = None
        """The series object of the latest report. Most reports contain the same object as the one
        before, and then no key needs to be looked up."""

    def stored(self, report: InstanceStored) -> list[Notice]:
        """Count a stored instance; return its notices. A repeated one is not counted (decision
        29)."""
        series = report.series
        session = self._latest
        if session is None or series is not self._latest_series:
            session = self._session_of(series, report.at)
        session.attempted += 1
        instances = session.instances
        before = len(instances)
        instances.add(report.sop_instance_uid)
        received = len(instances)
        notices: list[Notice] = []
        if received != before:
            notices.append(SeriesProgress(session.series, received, received == 1))
        if report.association_id in session.carriers and report.at >= session.changed_at:
            session.changed_at = report.at
        else:
            notices += self._carry(session, report.association_id, report.at)
        return notices

    def _session_of(self, series: SeriesInfo, at: float) -> _SeriesSession:
        key = series.key
        session = self._sessions.get(key)
        if session is None:
            session = self._sessions[key] = _SeriesSession(series, at)
        self._latest, self._latest_series = session, series
        return session

    def refused(self, report: InstanceRefused) -> list[Notice]:
        """Record a refused instance. It opens no series, but prolongs one that is open."""
        uid = report.series_instance_uid
        notices: list[Notice] = [SeriesFailed(report.calling_ae_title, uid, report.error)]
        if uid is not None:
            session = self._sessions.get(SeriesKey(report.pacs_name, uid))
            if session is not None:
                session.attempted += 1
                notices += self._carry(session, report.association_id, report.at)
        return notices

    def expect(self, key: SeriesKey, count: int) -> None:
        """Set the number of instances that the PACS holds of a series, if the series is open."""
        session = self._sessions.get(key)
        if session is not None:
            session.expected = count

    def association_ended(self, report: AssociationEnded) -> list[Notice]:
        """Record that an association has ended, by a release or in any other way (decision 31).

        A series is complete at once only if the settle time is 0 s.
        """
        return self.associations_lost((report.association_id,), report.at)

    def associations_lost(self, association_ids: Iterable[str], at: float) -> list[Notice]:
        """Record that several associations have ended at the time `at`; see `association_ended`."""
        notices: list[Notice] = []
        for association_id in association_ids:
            self._remember_ended(association_id)
            for session in self._carried.pop(association_id, ()):
                session.carriers.remove(association_id)
                session.changed_at = max(session.changed_at, at)
                if not session.carriers:
                    notices += self._begin_settling(session)
        return notices

    def recovered(
        self,
        series: SeriesInfo,
        associations: Iterable[str],
        at: float,
        instances: Iterable[str] = (),
    ) -> None:
        """Continue a series that was open when an earlier process, or a worker, died.

        `at` is the time at which this process began to listen, or learned of the death. The series
        is complete no sooner than the recovery settle time after `at` (decision 32), even if it is
        carried again: a sender may resend it in many short associations. `instances` are the SOP
        Instance UIDs in its folder, so that its count continues from there.
        """
        session = self._sessions.get(series.key)
        if session is None:
            session = self._sessions[series.key] = _SeriesSession(series, at)
        known = len(session.instances)
        session.instances.update(instances)
        session.attempted += len(session.instances) - known
        session.not_before = max(session.not_before, at + self._recovery_settle)
        if not session.carriers:
            complete_at = session.changed_at + self._settle
            self._enqueue(session, max(complete_at, session.not_before))
        session.associations.update(dict.fromkeys(associations))

    def has_ended(self, association_id: str) -> bool:
        """Return whether an association has ended and the tracker still remembers it."""
        return association_id in self._ended

    def series_of(self, key: SeriesKey) -> SeriesInfo | None:
        """Return the attributes of a series; None if it is not open. May be called from any
        thread."""
        session = self._sessions.get(key)
        return None if session is None else session.series

    def expected_of(self, key: SeriesKey) -> int | None:
        """Return the number given to `expect` for a series; None if there is none or it is not
        open."""
        session = self._sessions.get(key)
        return None if session is None else session.expected

    def carrier_of(self, key: SeriesKey) -> str | None:
        """Return the first association that has carried a series; None if it is not open."""
        session = self._sessions.get(key)
        return None if session is None else next(iter(session.associations), None)

    def due(self, now: float) -> list[Notice]:
        """Complete the series whose deadline is not after `now`; return their notices."""
        notices: list[Notice] = []
        while (first := self._next_to_complete()) is not None and first[0] <= now:
            notices.append(self._complete(first[1]))
        return notices

    def next_deadline(self) -> float | None:
        """Return the earliest time at which a series is complete, if no report comes until then.

        Returns None if an open association carries every open series, or none is open.
        """
        first = self._next_to_complete()
        return None if first is None else first[0]

    def finish_all(self, now: float) -> list[Notice]:
        """Complete every series, at shutdown; return the notices, those of due series first."""
        notices = self.due(now)
        notices += [session.completed() for session in self._sessions.values()]
        self._latest = self._latest_series = None
        self._sessions.clear()
        self._carried.clear()
        self._queue.clear()
        return notices

    @property
    def number_open(self) -> int:
        """Number of open series."""
        return len(self._sessions)

    def latest(self, most: int) -> list[OpenSeries]:
        """Return up to `most` open series, the most recently changed first."""
        found = heapq.nlargest(most, self._sessions.values(), key=lambda each: each.changed_at)
        return [session.status() for session in found]

    def _carry(self, session: _SeriesSession, association_id: str, at: float) -> list[Notice]:
        if at > session.changed_at:
            session.changed_at = at
        if association_id in session.carriers:
            return []
        session.associations[association_id] = None
        if association_id not in self._ended:
            session.carriers.add(association_id)
            self._carried.setdefault(association_id, set()).add(session)
            session.deadline = None
        elif not session.carriers:
            return self._begin_settling(session)
        return []

    def _begin_settling(self, session: _SeriesSession) -> list[Notice]:
        deadline = max(session.changed_at + self._settle, session.not_before)
        if deadline <= session.changed_at:
            return [self._complete(session)]
        self._enqueue(session, deadline)
        return []

    def _enqueue(self, session: _SeriesSession, deadline: float) -> None:
        session.deadline = deadline
        if session.queued is None or session.queued > deadline:
            session.queued = deadline
            heapq.heappush(self._queue, (deadline, next(self._serial), session))

    def _next_to_complete(self) -> tuple[float, _SeriesSession] | None:
        while self._queue:
            at, _, session = self._queue[0]
            if at == session.deadline:
                return at, session
            heapq.heappop(self._queue)
            if at == session.queued:
                session.queued = None
                if session.deadline is not None:
                    self._enqueue(session, session.deadline)
        return None

    def _complete(self, session: _SeriesSession) -> SeriesCompleted:
        completed = session.completed()
        self._latest = self._latest_series = None
        del self._sessions[session.series.key]
        # An entry of the session may stay in the queue; it must not keep the UIDs in memory.
        session.deadline = None
        session.instances.clear()
        return completed

    def _remember_ended(self, association_id: str) -> None:
        """Remember that an association has ended: a later report of it must not keep a series
        open."""
        self._ended[association_id] = None
        if len(self._ended) > MAX_ENDED_ASSOCIATIONS:
            self._ended.popitem(last=False)
