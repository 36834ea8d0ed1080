"""The stream between a worker and the notifier: whole frames, and a memory with an end."""

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


class End:
    """A channel, and what came by it."""

    def __init__(self, end: socket.socket) -> None:
        self.frames: list[bytes] = []
        self.closed = asyncio.Event()
        self._changed = asyncio.Event()
        self.listens = True
        self.channel = WorkerChannel(end, self._received, self.closed.set, lambda: self.listens)

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
    one, two = map(End, pair)
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


async def test_what_was_sent_before_the_end_arrives(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    one = End(pair[0])
    one.channel.send(b"last words")
    one.channel.close()
    one.channel.send(b"nobody hears this")
    two = End(pair[1])
    await asyncio.wait_for(two.closed.wait(), 10)
    assert two.frames == [b"last words"]
    two.channel.send(b"nor this")
    two.channel.close()


async def test_what_may_not_be_read_waits_with_its_sender(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_module, "CHANNEL_PAUSE_S", 0.001)
    one, two = map(End, pair)
    asked = asyncio.Event()
    turns = iter(range(10))

    def may_read() -> bool:
        if next(turns, None) is None:
            asked.set()
        return False

    monkeypatch.setattr(two.channel, "_may_read", may_read)
    for _ in range(100):
        one.channel.send(bytes(100_000))
    await asyncio.wait_for(asked.wait(), 10)
    assert two.frames == []
    assert one.channel.unsent_bytes > 1_000_000
    monkeypatch.undo()
    await two.until(100)
    assert one.channel.unsent_bytes == 0
    one.channel.close()
    two.channel.close()


async def test_what_nobody_will_read_is_not_kept(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    one, two = map(End, pair)
    two.listens = False
    one.channel.send(bytes(10_000_000))
    two.channel.close()
    await asyncio.wait_for(one.closed.wait(), 10)
    assert one.channel.unsent_bytes == 0


async def test_standing_still_ends_with_the_other_side(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    one = End(pair[0])
    one.channel.send(bytes(5_000_000))
    assert not one.channel.wait_until_sent(0, 0.02)
    asyncio.get_running_loop().run_in_executor(None, pair[1].close)
    assert one.channel.wait_until_sent(0)
    await asyncio.wait_for(one.closed.wait(), 10)


# ---- reports -----------------------------------------------------------------------------


def ended(text: str | None = None) -> AssociationEnded:
    return AssociationEnded("A", text, 1, 2.0, 3)


async def test_reports_are_gathered(pair: tuple[socket.socket, socket.socket]) -> None:
    one, two = map(End, pair)
    report = Reporter(one.channel)
    said: list[Message] = [ended(), ClaimReleased("P", "1.2"), ended("x")]
    for each in said:
        report(each)
    await two.until(1)
    report(ended("later"))
    await two.until(2)
    decoder = Decoder()
    assert [decoder.decode(frame) for frame in two.frames] == [said, [ended("later")]]
    one.channel.close()
    two.channel.close()


async def test_one_report_that_cannot_be_said_is_the_only_one_lost(
    pair: tuple[socket.socket, socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    one, two = map(End, pair)
    report = Reporter(one.channel)
    for text in ("a", "\ud800", "b"):
        report(ended(text))
    await two.until(2)
    decoder = Decoder()
    assert [decoder.decode(frame) for frame in two.frames] == [[ended("a")], [ended("b")]]
    assert "report not sent to the control process" in caplog.text
    one.channel.close()
    two.channel.close()


async def test_a_worker_whose_reports_nobody_reads_stands_still(
    pair: tuple[socket.socket, socket.socket],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Memory has an end; when the notifier reads again, nothing is missing."""
    monkeypatch.setattr(worker, "MAX_UNSENT_REPORT_BYTES", 1_000_000)
    one, theirs = End(pair[0]), pair[1]
    theirs.setblocking(True)
    report = Reporter(one.channel)
    stands_still = threading.Event()
    monkeypatch.setattr(logging.getLogger("oxidicom.workers"), "filters", [tell_of(stands_still)])

    def read_in_the_end() -> list[int]:
        assert stands_still.wait(10)
        frames, decoder = FrameSplitter(), Decoder()
        heard: list[Message] = []
        while data := theirs.recv(1 << 20):
            for frame in frames.feed(data):
                heard += decoder.decode(frame)
        return [each.bytes_received for each in heard if isinstance(each, AssociationEnded)]

    reading = asyncio.get_running_loop().run_in_executor(None, read_in_the_end)
    for number in range(60):
        report(AssociationEnded("A", "x" * 100_000, number, 2.0, 3))
        report.flush()
        assert one.channel.unsent_bytes <= 1_000_000
    assert one.channel.wait_until_sent(0, 10)
    one.channel.close()
    assert await reading == list(range(60))
    assert "control process reading reports again; reception resumed" in caplog.text
    theirs.close()


def tell_of(standing: threading.Event) -> Callable[[logging.LogRecord], bool]:
    def look(record: logging.LogRecord) -> bool:
        if "reception paused" in record.getMessage():
            standing.set()
        return True

    return look
