"""One of several receiving processes, started by the notifier as `python -m oxidicom.app FD`.

It receives and stores; what comes of it is the notifier's. It outlives the notifier by no more
than a moment, and ends when it is told to, not by SIGTERM or SIGINT of its own.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import pickle
import signal
import socket
import sys
from collections import deque
from typing import Final, NamedTuple

import uvloop

from oxidicom.app.control_host import journal_of, unusable_storage
from oxidicom.app.control_plane import GATHER
from oxidicom.app.data_plane import DataPlane
from oxidicom.app.folder_claims import ClaimClient
from oxidicom.app.worker_channel import WorkerChannel
from oxidicom.app.worker_messages import (
    Alive,
    Begin,
    Decoder,
    Drain,
    Encoder,
    Failed,
    Message,
    NamesReleased,
    Ready,
    Registered,
    Reload,
)
from oxidicom.errors import OperatorError
from oxidicom.logevents import event
from oxidicom.net.shared_port import Scoreboard, SharedPort
from oxidicom.ports import SeriesKey
from oxidicom.settings import Settings
from oxidicom.store.folders import SeriesFolders
from oxidicom.telemetry import logs

logger = logging.getLogger("oxidicom.workers")

MOST_WAITING: Final = 8 << 20
"""Bytes of reports that the notifier has not read: with more the worker stands still."""

LAST_REPORTS: Final = 2.0
"""Seconds for the notifier to read the last reports."""

_PR_SET_PDEATHSIG: Final = 1


class Orders(NamedTuple):
    """What the notifier says first; never on the command line, for settings hold secrets."""

    number: int
    """From 1."""
    writer: str
    """Marks what this process writes into the journal."""
    settings: Settings
    plain: tuple[int, ...]
    """Listening sockets' file descriptors; the next three are descriptors, too."""
    tls: tuple[int, ...]
    claims: int
    load: int
    parent: int
    """The notifier's process id."""


class Reporter:
    """Gathers what is to be told (ports.Reports), and sends it a hundred times a second."""

    def __init__(self, channel: WorkerChannel) -> None:
        self._channel = channel
        self._loop = asyncio.get_running_loop()
        self._encoder = Encoder()
        self._messages: deque[Message] = deque()
        self._armed = False

    def __call__(self, report: Message) -> None:
        self._messages.append(report)
        if not self._armed:
            self._armed = True
            self._loop.call_later(GATHER, self.flush)

    def flush(self) -> None:
        self._armed = False
        messages, self._messages = self._messages, deque()
        if messages:
            for payload in self._encoded(messages):
                self._channel.send(payload)
        if self._channel.waiting > MOST_WAITING:
            # Nothing is received meanwhile: what waits does not grow.
            event(logger, logging.ERROR, "control process not reading reports; reception paused")
            self._channel.wait_until_sent(MOST_WAITING // 2)
            event(
                logger, logging.WARNING, "control process reading reports again; reception resumed"
            )

    def _encoded(self, messages: deque[Message]) -> list[bytes]:
        try:
            return [self._encoder.encode(messages)]
        except ValueError:
            pass
        payloads = []
        for message in messages:
            try:
                payloads.append(self._encoder.encode((message,)))
            except ValueError as error:
                event(
                    logger, logging.ERROR, "report not sent to the control process", exc_info=error
                )
        return payloads


class Worker:
    """`run` on its loop; ends when the notifier says so, or is gone."""

    def __init__(self, orders: Orders, channel_fd: int) -> None:
        self._orders = orders
        self._drain = asyncio.Event()
        self._decoder = Decoder()
        self._channel = WorkerChannel(
            socket.socket(fileno=channel_fd), self._on_frame, _notifier_is_gone
        )
        self.report = Reporter(self._channel)
        claims = ClaimClient(socket.socket(fileno=orders.claims), self._names_released)
        self._folders = SeriesFolders(claims)
        load = Scoreboard(orders.load, orders.settings.workers)
        self._seats = load.seats(orders.number - 1)
        self._reception: DataPlane | None = None

    async def run(self) -> int:
        orders = self._orders
        try:
            journal = journal_of(orders.settings, orders.writer)
            self._reception = reception = DataPlane(
                orders.settings,
                journal=journal,
                reports=self.report,
                folders=self._folders,
                seats=self._seats,
            )
        except (OSError, OperatorError) as error:
            operators = error if isinstance(error, OperatorError) else unusable_storage(error)
            self.report(Failed(list(operators.faults)))
            self._tell_the_rest()
            return 1
        # What exists now exists for ever: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        self.report(Ready())
        self.report.flush()
        if orders.settings.admin_port is not None:
            from oxidicom.admin.liveness import Heartbeat

            Heartbeat(lambda: self.report(Alive()))
        await self._drain.wait()
        await reception.drain()
        self._tell_the_rest()
        return 0

    def _begin(self) -> None:
        assert self._reception is not None
        self._reception.join(self._port(self._orders.plain), self._port(self._orders.tls))

    def _port(self, listening: tuple[int, ...]) -> SharedPort | None:
        if not listening:
            return None
        return SharedPort([socket.socket(fileno=fd) for fd in listening], self._seats)

    def _tell_the_rest(self) -> None:
        self.report.flush()
        if not self._channel.wait_until_sent(0, LAST_REPORTS):
            event(logger, logging.ERROR, "control process did not read the last reports")

    def _names_released(self, key: SeriesKey) -> None:
        self.report(NamesReleased(*key))

    def _on_frame(self, frame: bytearray) -> None:
        for message in self._decoder.decode(frame):
            match message:
                case Registered():
                    key = SeriesKey(message.pacs_name, message.series_instance_uid)
                    self._folders.completed(key, message.associations)
                case Begin():
                    self._begin()
                case Reload():
                    assert self._reception is not None
                    self._reception.reload()
                case Drain():
                    self._drain.set()


def _notifier_is_gone() -> None:
    """All that was acknowledged is in its journal; what is under way is its sender's again."""
    event(logger, logging.ERROR, "control process gone; worker exits")
    os._exit(1)


def _die_with(parent: int) -> None:
    """Should this process hang in its storage when the notifier dies, and hear of nothing."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _first_orders(channel_fd: int) -> Orders:
    """Its length, then itself; raises EOFError if the notifier is gone."""
    end = socket.socket(fileno=channel_fd)
    try:
        length = int.from_bytes(_exactly(end, 4))
        orders = pickle.loads(_exactly(end, length))
    finally:
        end.detach()
    assert isinstance(orders, Orders)
    return orders


def _exactly(end: socket.socket, length: int) -> bytes:
    data = end.recv(length, socket.MSG_WAITALL)
    if len(data) < length:
        raise EOFError
    return data


def main() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # A terminal's Ctrl-C reaches the whole group; the notifier decides.
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
    channel_fd = int(sys.argv[1])
    orders = _first_orders(channel_fd)
    _die_with(orders.parent)
    settings = orders.settings
    logs.configure(
        settings.log_level, settings.log_format, log_phi=settings.log_phi, worker=orders.number
    )
    logs.capture_strays()

    async def work() -> int:
        asyncio.get_running_loop().set_exception_handler(logs.on_loop_error)
        return await Worker(orders, channel_fd).run()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        status = runner.run(work())
        # Not by way of the interpreter's end, which would wait for threads that storage holds.
        os._exit(status)
