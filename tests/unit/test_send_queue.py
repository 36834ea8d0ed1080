"""Which of the waiting instances an association takes, and when the queue has ended."""

from __future__ import annotations

import threading
from pathlib import Path

from oxidicom.scu.association import DataSet
from oxidicom.scu.send_queue import Item, SendQueue
from oxidicom.wire.requestor import MAX_CONTEXTS, Context


def item(sop_class: str, number: int = 0) -> Item:
    return Item(DataSet(Path(str(number)), 0, sop_class, str(number), "1.2"), 1)


def context(sop_class: str) -> Context:
    return Context(sop_class, ("1.2",))


def test_instances_of_proposed_contexts_are_taken_first() -> None:
    backlog = SendQueue()
    for sop_class in ("CT", "MR", "CT", "US"):
        backlog.put(item(sop_class))
    taken = [backlog.take([context("MR"), context("US")]) for _ in range(4)]
    assert [each.data_set.sop_class for each in taken if each] == ["MR", "US", "CT", "CT"]


def test_contexts_of_waiting_instances_are_proposed_before_earlier_ones() -> None:
    backlog = SendQueue(limit=1000)
    for number in range(MAX_CONTEXTS + 2):
        backlog.put(item(f"class {number}"))
    assert backlog.take() == item("class 0")
    assert backlog.take() == item("class 1")
    contexts = backlog.contexts(context("class 0"))
    assert contexts[0] == context("class 0")
    assert len(contexts) == MAX_CONTEXTS
    assert context("class 1") not in contexts


def test_the_queue_ends_when_no_instance_can_come_back() -> None:
    backlog = SendQueue()
    backlog.put(item("CT"))
    first = backlog.take()
    assert first is not None
    backlog.close()
    assert backlog.take() is None
    came_back: list[bool] = []
    waiting = threading.Thread(target=lambda: came_back.append(backlog.wait_for_returns()))
    waiting.start()
    backlog.put_back(first)
    waiting.join(10)
    assert came_back == [True]
    assert backlog.take() == first
    backlog.finish()
    assert backlog.take() is None
    assert not backlog.wait_for_returns()
    assert not backlog.put(item("CT"))


def test_filling_the_queue_waits_for_room() -> None:
    backlog = SendQueue(limit=1)
    backlog.put(item("CT", 1))
    put: list[bool] = []
    filling = threading.Thread(target=lambda: put.append(backlog.put(item("CT", 2))))
    filling.start()
    assert backlog.take() == item("CT", 1)
    filling.join(10)
    assert put == [True]
    assert backlog.take() == item("CT", 2)
