"""The stream between a worker and the control process: frames arrive whole, memory is bounded."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable

import pytest

from oxidicom.app import worker
from oxidicom.app import worker_channel as channel_module
from oxidicom.app.worker import Reporter
from oxidicom.app.worker_channel import WorkerChannel, socket_pair
from oxidicom.app.worker_messages import ClaimReleased, Decoder, FrameSplitter, Message
from oxidicom.ports import AssociationEnded

pytestmark = pytest.mark.both_loops


class ChannelEnd:
    """One end of a channel, and the frames that it has received."""

    def __init__(self, end: socket.socket) -> None:
        self.frames: list[bytes] = []
        self.closed = asyncio.Event()
        self._changed = asyncio.Event()
        self.reads = True
        self.channel = WorkerChannel(end, self._received, self.closed.set, lambda: self.reads)

    def _received(self, frame: bytearray) -> None:
        self.frames.append(bytes(frame))
        self._changed.set()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.frames) < count:
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture
def pair() -> tuple[socket.socket, socket.socket]:
    return socket_pair(socket.SOCK_STREAM)


async def test_frames_of_any_length_arrive_in_order(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    one, two = map(ChannelEnd, pair)
    frames = [b"", b"a", b"b" * 5_000_000, b"c", b"d" * 300_000, b"e"]
    for frame in frames:
        one.channel.send(frame)
    two.channel.send(b"back")
    assert one.channel.unsent_bytes > 1_000_000, "sending does not wait"
    await two.until(len(frames))
    await one.until(1)
    assert two.frames == frames
    assert one.frames == [b"back"]
    assert one.channel.unsent_bytes == 0
    one.channel.close()
    await asyncio.wait_for(two.closed.wait(), 10)
    assert not one.closed.is_set()


async def test_frames_sent_before_the_end_arrive(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    one = ChannelEnd(pair[0])
    one.channel.send(b"last report")
    one.channel.close()
    one.channel.send(b"never received")
    two = ChannelEnd(pair[1])
    await asyncio.wait_for(two.closed.wait(), 10)
    assert two.frames == [b"last report"]
    two.channel.send(b"never received, either")
    two.channel.close()


async def test_frames_stay_with_their_sender_while_nothing_may_be_read(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_module, "CHANNEL_PAUSE_S", 0.001)
    one, two = map(ChannelEnd, pair)
    checked = asyncio.Event()
    turns = iter(range(10))

    def may_read() -> bool:
        if next(turns, None) is None:
            checked.set()
        return False

    monkeypatch.setattr(two.channel, "_may_read", may_read)
    for _ in range(100):
        one.channel.send(bytes(100_000))
    await asyncio.wait_for(checked.wait(), 10)
    assert two.frames == []
    assert one.channel.unsent_bytes > 1_000_000
    monkeypatch.undo()
    await two.until(100)
    assert one.channel.unsent_bytes == 0
    one.channel.close()
    two.channel.close()


async def test_frames_are_dropped_when_the_other_side_is_gone(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    one, two = map(ChannelEnd, pair)
    two.reads = False
    one.channel.send(bytes(10_000_000))
    two.channel.close()
    await asyncio.wait_for(one.closed.wait(), 10)
    assert one.channel.unsent_bytes == 0


async def test_waiting_for_the_other_side_ends_when_it_is_gone(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    one = ChannelEnd(pair[0])
    one.channel.send(bytes(5_000_000))
    assert not one.channel.wait_until_sent(0, 0.02)
    asyncio.get_running_loop().run_in_executor(None, pair[1].close)
    assert one.channel.wait_until_sent(0)
    await asyncio.wait_for(one.closed.wait(), 10)


# ---- reports -----------------------------------------------------------------------------


def ended(text: str | None = None) -> AssociationEnded:
    return AssociationEnded("A", text, 1, 2.0, 3)


async def test_reports_are_sent_in_batches(pair: tuple[socket.socket, socket.socket]) -> None:
    one, two = map(ChannelEnd, pair)
    report = Reporter(one.channel)
    sent: list[Message] = [ended(), ClaimReleased("P", "1.2"), ended("x")]
    for each in sent:
        report(each)
    await two.until(1)
    report(ended("later"))
    await two.until(2)
    decoder = Decoder()
    assert [decoder.decode(frame) for frame in two.frames] == [sent, [ended("later")]]
    one.channel.close()
    two.channel.close()


async def test_only_the_report_that_cannot_be_encoded_is_lost(
    pair: tuple[socket.socket, socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    one, two = map(ChannelEnd, pair)
    report = Reporter(one.channel)
    for text in ("a", "\ud800", "b"):
        report(ended(text))
    await two.until(2)
    decoder = Decoder()
    assert [decoder.decode(frame) for frame in two.frames] == [[ended("a")], [ended("b")]]
    assert "report not sent to the control process" in caplog.text
    one.channel.close()
    two.channel.close()


async def test_a_worker_pauses_while_its_reports_are_not_read(
    pair: tuple[socket.socket, socket.socket],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its memory is bounded, and no report is missing once the control process reads again."""
    monkeypatch.setattr(worker, "MAX_UNSENT_REPORT_BYTES", 1_000_000)
    one, theirs = ChannelEnd(pair[0]), pair[1]
    theirs.setblocking(True)
    report = Reporter(one.channel)
    paused = threading.Event()
    monkeypatch.setattr(logging.getLogger("oxidicom.workers"), "filters", [set_when_paused(paused)])

    def read_once_paused() -> list[int]:
        assert paused.wait(10)
        frames, decoder = FrameSplitter(), Decoder()
        received: list[Message] = []
        while data := theirs.recv(1 << 20):
            for frame in frames.feed(data):
                received += decoder.decode(frame)
        return [each.bytes_received for each in received if isinstance(each, AssociationEnded)]

    reading = asyncio.get_running_loop().run_in_executor(None, read_once_paused)
    for number in range(60):
        report(AssociationEnded("A", "x" * 100_000, number, 2.0, 3))
        report.flush()
        assert one.channel.unsent_bytes <= 1_000_000
    assert one.channel.wait_until_sent(0, 10)
    one.channel.close()
    assert await reading == list(range(60))
    assert "control process reading reports again; reception resumed" in caplog.text
    theirs.close()


def set_when_paused(paused: threading.Event) -> Callable[[logging.LogRecord], bool]:
    def accept(record: logging.LogRecord) -> bool:
        if "reception paused" in record.getMessage():
            paused.set()
        return True

    return accept
