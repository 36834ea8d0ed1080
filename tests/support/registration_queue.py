"""The registrations in the queue of any broker, compared with those that were sent."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from tests.support.brokers import Broker, RedisServer
from tests.support.ports import free_port
from tests.support.receiver import Receiver, wait_until
from tests.support.redis_lists import admin, envelopes
from tests.support.senders import Ledger
from tests.support.task_queue import TaskQueue

QUEUE = "cube"


class Task(NamedTuple):
    """A registration as CUBE would take it."""

    id: str
    series: str
    ndicom: int


class RegistrationQueue:
    """All that came of it so far."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.tasks: list[Task] = []

    @property
    def url(self) -> str:
        return f"{self.broker.url}/0" if isinstance(self.broker, RedisServer) else self.broker.url

    def take_all(self) -> list[Task]:
        if isinstance(self.broker, RedisServer):
            self.tasks += [
                task(each.task_id, each.kwargs) for each in envelopes(self.broker, QUEUE)
            ]
            with admin(self.broker) as client:
                client.delete(QUEUE)
        else:
            with TaskQueue(self.broker.url, QUEUE) as queue:
                self.tasks += [
                    task(each.properties["correlation_id"], each.kwargs)
                    for each in queue.take_all()
                ]
        return self.tasks

    def check(self, ledger: Ledger) -> int:
        """Every series is there with its true count at last; how many tasks came twice."""
        tasks = self.take_all()
        assert {task.series for task in tasks} == set(ledger.series)
        # The same task again is as good as none: CUBE knows it by its series and count.
        counts: dict[str, list[int]] = {}
        for task in tasks:
            counts.setdefault(task.series, []).append(task.ndicom)
        for series, told in counts.items():
            assert told == sorted(told), "an older count after a newer one"
            assert told[-1] == len(ledger.series[series])
        return sum(times - 1 for times in Counter(task.id for task in tasks).values())


def task(task_id: str, kwargs: dict[str, object]) -> Task:
    series, ndicom = kwargs["SeriesInstanceUID"], kwargs["ndicom"]
    assert isinstance(series, str)
    assert isinstance(ndicom, int)
    return Task(task_id, series, ndicom)


def receiver_of(root: Path, queue: RegistrationQueue, **environment: str) -> Receiver:
    root.mkdir()
    return Receiver(
        root,
        OXIDICOM_LISTENER_PORT=str(free_port()),
        OXIDICOM_CELERY_BROKER=queue.url,
        OXIDICOM_QUEUE_NAME=QUEUE,
        OXIDICOM_INCOMPLETE_SETTLE="500ms",
        **environment,
    )


def wait_for_delivery(receiver: Receiver, timeout: float = 60) -> None:
    """Until the broker has confirmed all: thousands may wait, so they are not read meanwhile."""
    outbox = receiver.state / "outbox"
    wait_until(lambda: not any(outbox.glob("*.json")), "all to be delivered", timeout)
