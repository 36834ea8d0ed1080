"""The series tracker compared with a second, simple implementation of its rules."""

from __future__ import annotations

from dataclasses import dataclass, field

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from oxidicom.ports import SeriesCompleted, SeriesFailed, SeriesInfo, SeriesKey
from oxidicom.series.tracker import SeriesTracker
from tests.unit.test_tracker import (
    ended,
    open_without_times,
    progress,
    refused,
    series,
    stored,
    uid_of,
)


@dataclass
class Model:
    """One session of a series."""

    info: SeriesInfo
    instances: set[str] = field(default_factory=set)
    attempted: int = 0
    carriers: set[str] = field(default_factory=set)
    associations: list[str] = field(default_factory=list)
    changed_at: float = 0.0
    recovered_at: float | None = None

    def deadline(self, settle: float, recovery_settle: float) -> float | None:
        if self.carriers:
            return None
        settled = self.changed_at + settle
        if self.recovered_at is None:
            return settled
        return max(settled, self.recovered_at + recovery_settle)

    def completed(self) -> SeriesCompleted:
        return SeriesCompleted(
            self.info, len(self.instances), tuple(self.associations), self.attempted, None
        )


UIDS = st.sampled_from(["1.1", "1.2", "1.3"])
INSTANCES = st.sampled_from("12345")
LAG = st.sampled_from([0.0, 0.0, 0.5, 3.0])
"""Seconds from the time of a report until it reaches the tracker."""


class TrackerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.settle = 2.0
        self.recovery_settle = 8.0
        self.tracker = SeriesTracker(self.settle, self.recovery_settle)
        self.now = 100.0
        self.open: list[str] = []
        self.ended: list[str] = []
        self.models: dict[SeriesKey, Model] = {}
        self.names = 0

    def name(self) -> str:
        self.names += 1
        return f"a{self.names}"

    def carry(self, model: Model, association: str, at: float) -> None:
        model.changed_at = max(model.changed_at, at)
        if association not in model.associations:
            model.associations.append(association)
        if association in self.open:
            model.carriers.add(association)

    def store(self, association: str, uid: str, instance: str, at: float) -> None:
        info = series(uid, path=association)
        notices = self.tracker.stored(stored(association, instance, at, info))
        model = self.models.setdefault(info.key, Model(info, changed_at=at))
        repeat = instance in model.instances
        model.instances.add(instance)
        model.attempted += 1
        self.carry(model, association, at)
        assert notices == ([] if repeat else [progress(len(model.instances), model.info)])

    def end(self, associations: list[str], at: float) -> None:
        for association in associations:
            self.open.remove(association)
            self.ended.append(association)
            for model in self.models.values():
                if association in model.carriers:
                    model.carriers.remove(association)
                    model.changed_at = max(model.changed_at, at)

    @rule()
    def associate(self) -> None:
        self.open.append(self.name())

    @precondition(lambda self: self.open)
    @rule(data=st.data(), uid=UIDS, instance=INSTANCES, lag=LAG)
    def store_in_time(self, data: st.DataObject, uid: str, instance: str, lag: float) -> None:
        self.store(data.draw(st.sampled_from(self.open)), uid, instance, self.now - lag)

    @precondition(lambda self: self.ended)
    @rule(data=st.data(), uid=UIDS, instance=INSTANCES, lag=LAG)
    def store_late(self, data: st.DataObject, uid: str, instance: str, lag: float) -> None:
        self.store(data.draw(st.sampled_from(self.ended)), uid, instance, self.now - lag)

    @precondition(lambda self: self.open or self.ended)
    @rule(data=st.data(), uid=st.none() | UIDS, lag=LAG)
    def refuse(self, data: st.DataObject, uid: str | None, lag: float) -> None:
        association = data.draw(st.sampled_from(self.open + self.ended))
        notices = self.tracker.refused(refused(association, self.now - lag, uid))
        assert notices == [SeriesFailed("PACS 1", uid, "no")]
        if uid is not None and SeriesKey("PACS", uid) in self.models:
            model = self.models[SeriesKey("PACS", uid)]
            model.attempted += 1
            self.carry(model, association, self.now - lag)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), lag=LAG)
    def release(self, data: st.DataObject, lag: float) -> None:
        association = data.draw(st.sampled_from(self.open))
        assert self.tracker.association_ended(ended(association, self.now - lag)) == []
        self.end([association], self.now - lag)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        lost = data.draw(st.lists(st.sampled_from(self.open), unique=True))
        assert self.tracker.associations_lost(lost, self.now) == []
        self.end(lost, self.now)

    @rule(uid=UIDS)
    def recover(self, uid: str) -> None:
        association = self.name()
        info = series(uid, path=association)
        self.tracker.recovered(info, (association,), self.now)
        model = self.models.setdefault(info.key, Model(info, changed_at=self.now))
        model.recovered_at = self.now
        model.associations.append(association)

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 2.0, 7.0, 30.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        settled = {
            key: model
            for key, model in self.models.items()
            if (at := model.deadline(self.settle, self.recovery_settle)) is not None
            and at <= self.now
        }
        notices = self.tracker.due(self.now)
        assert sorted(notices, key=uid_of) == sorted(
            (model.completed() for model in settled.values()), key=uid_of
        )
        for key in settled:
            del self.models[key]

    @rule()
    def shut_down(self) -> None:
        notices = self.tracker.finish_all(self.now)
        assert sorted(notices, key=uid_of) == sorted(
            (model.completed() for model in self.models.values()), key=uid_of
        )
        self.models.clear()
        assert not self.tracker._sessions
        assert not self.tracker._carried
        assert not self.tracker._queue

    @invariant()
    def open_series_are_as_modelled(self) -> None:
        assert sorted(open_without_times(self.tracker), key=lambda line: line[0].key) == sorted(
            (
                (model.info, len(model.instances), len(model.carriers), None)
                for model in self.models.values()
            ),
            key=lambda line: line[0].key,
        )

    @invariant()
    def the_next_deadline_is_the_earliest(self) -> None:
        deadlines = (
            model.deadline(self.settle, self.recovery_settle) for model in self.models.values()
        )
        assert self.tracker.next_deadline() == min(
            (at for at in deadlines if at is not None), default=None
        )

    @invariant()
    def nothing_is_kept_of_completed_series(self) -> None:
        carrying = {carrier for model in self.models.values() for carrier in model.carriers}
        assert set(self.tracker._carried) == carrying
        valid = [each for at, _, each in self.tracker._queue if at == each.queued]
        assert len(valid) == len(set(valid))
        dead = [each for *_, each in self.tracker._queue if each.series.key not in self.models]
        assert not any(each.instances for each in dead)


TestTracker = TrackerMachine.TestCase
TestTracker.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
