"""The cost of a common instance, in calls instead of seconds, so that a regression shows on any
machine."""

from __future__ import annotations

import asyncio
import gc
import sys
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.support import raw_peer as peer
from tests.support.data import Instance
from tests.support.line import Line
from tests.support.raw_peer import EXPLICIT

INSTANCES = 100


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    """Warm: everything that happens once has happened."""
    loop = asyncio.new_event_loop()
    line = Line(tmp_path, loop)
    line.associate()
    for n in range(900, 910):
        line.receive(store(n))
    line.taken()
    yield line
    line.close()
    loop.close()


def store(number: int, pixels: int = 512) -> bytes:
    one = Instance(
        series="1.2.826.9", sop_instance=f"1.2.826.9.{number}", number=number, pixels=pixels
    )
    command = peer.c_store_rq(one.sop_class, one.sop_instance, number)
    return peer.store_message(1, command, one.encode(EXPLICIT), max_length=131072)


def feed(line: Line, messages: list[bytes]) -> None:
    """As a loop does, and nothing else."""
    get_buffer, buffer_updated = line.protocol.get_buffer, line.protocol.buffer_updated
    for message in messages:
        line.protocol.window = 1 << 20
        get_buffer(-1)[: len(message)] = message
        buffer_updated(len(message))


def test_an_instance_makes_no_call_into_python_but_the_clock_and_the_report(line: Line) -> None:
    line.protocol.long_turn_ns = 1 << 62  # however busy the machine
    messages = [store(100 + n) for n in range(INSTANCES)]
    entered: Counter[str] = Counter()

    def watch(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            entered[frame.f_code.co_qualname] += 1

    gc.collect()  # other tests' finalizers are none of our calls
    gc.disable()
    sys.setprofile(watch)
    try:
        feed(line, messages)
    finally:
        sys.setprofile(None)
        gc.enable()
    del entered["feed"]
    slow = entered.pop("WritePolicy.observe", 0)
    assert slow < INSTANCES / 2, "a busy machine's writes, and no others, are told to the policy"
    assert not entered
    assert len(line.reports) >= 10 + INSTANCES


def test_an_instance_leaves_in_memory_its_report_and_its_name(line: Line) -> None:
    messages = [store(200 + n) for n in range(INSTANCES)]
    feed(line, messages[:10])
    before = sys.getallocatedblocks()
    feed(line, messages[10:])
    blocks = (sys.getallocatedblocks() - before) / (INSTANCES - 10)
    # A report of two strings, three numbers and a tuple; a UID and a file's name in the folder.
    assert blocks < 11


def test_no_data_are_copied(line: Line) -> None:
    """8 MiB in receives of 256 KiB: Python's memory holds none of them, not even for a moment."""
    message = store(300, 8 << 20)
    step = line.protocol.pool.size
    parts = [memoryview(message)[start : start + step] for start in range(0, len(message), step)]
    get_buffer, buffer_updated = line.protocol.get_buffer, line.protocol.buffer_updated
    tracemalloc.start()
    try:
        for part in parts:
            line.protocol.window = step
            memoryview(get_buffer(-1))[: len(part)] = part  # without a copy of its own
            buffer_updated(len(part))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * 1024
    assert line.fast >= 10


def test_a_response_is_one_send_beside_the_transport(line: Line) -> None:
    before = line.transport.writes
    feed(line, [store(400 + n) for n in range(INSTANCES)])
    assert line.transport.writes == before
    assert len(line.taken()) > 100 * INSTANCES
