"""A worker process, started by the control process as `python -m oxidicom.app FD`.

It runs a data plane and sends its reports to the control process. It ends when the control process
sends `Drain` or is gone; it ignores SIGTERM and SIGINT.
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
import time
from collections import deque
from typing import Final, NamedTuple

import uvloop

from oxidicom.app.control_host import journal_of, unusable_storage
from oxidicom.app.control_plane import REPORT_BATCH_S
from oxidicom.app.data_plane import DataPlane
from oxidicom.app.deadlines import ShutdownBudget
from oxidicom.app.folder_claims import ClaimClient
from oxidicom.app.worker_channel import WorkerChannel
from oxidicom.app.worker_messages import (
    BeginAccepting,
    ClaimReleased,
    Decoder,
    Drain,
    Encoder,
    Message,
    RegistrationQueued,
    ReloadCertificate,
    StartFailed,
    WorkerAlive,
    WorkerReady,
)
from oxidicom.errors import OperatorError
from oxidicom.logevents import event
from oxidicom.net.shared_port import Scoreboard, SharedPort
from oxidicom.ports import SeriesKey
from oxidicom.settings import Settings
from oxidicom.store.folders import SeriesFolders
from oxidicom.telemetry import logs
from oxidicom.thread_names import name_this_thread

logger = logging.getLogger("oxidicom.workers")

MAX_UNSENT_REPORT_BYTES: Final = 8 << 20
"""Number of unsent bytes of reports above which the worker stops receiving."""

START_FAILURE_REPORT_S: Final = 2.0
"""Seconds for the control process to read why the worker cannot start."""

_PR_SET_PDEATHSIG: Final = 1
"""Number of an operation of prctl(2)."""


class WorkerSetup(NamedTuple):
    """The first message from the control process.

    It is sent over the channel, because settings contain secrets, which a command line would show
    to every user of the machine.
    """

    number: int
    """Number of the worker, from 1."""
    writer: str
    """Mark of the journal entries of this process: name of the receiver, `/`, and a ULID."""
    settings: Settings
    plain: tuple[int, ...]
    """File descriptors of the listening sockets without TLS; none if that port is not set."""
    tls: tuple[int, ...]
    """File descriptors of the listening sockets with TLS; none if that port is not set."""
    claims: int
    """File descriptor of the socket for folder claims."""
    scoreboard: int
    """File descriptor of the scoreboard's shared memory."""
    parent: int
    """Process id of the control process."""


class Reporter:
    """Sends reports (ports.Reports) in batches, at most a hundred times a second."""

    def __init__(self, channel: WorkerChannel) -> None:
        self._channel = channel
        self._loop = asyncio.get_running_loop()
        self._encoder = Encoder()
        self._messages: deque[Message] = deque()
        self._armed = False

    def __call__(self, report: Message) -> None:
        """Add a message to the batch."""
        self._messages.append(report)
        if not self._armed:
            self._armed = True
            self._loop.call_later(REPORT_BATCH_S, self.flush)

    def flush(self) -> None:
        """Send the batch.

        If more than MAX_UNSENT_REPORT_BYTES bytes are unsent afterwards, block the loop until at
        most half of MAX_UNSENT_REPORT_BYTES are.
        """
        self._armed = False
        messages, self._messages = self._messages, deque()
        if messages:
            for payload in self._encoded(messages):
                self._channel.send(payload)
        if self._channel.unsent_bytes > MAX_UNSENT_REPORT_BYTES:
            # A blocked loop receives nothing, so that no further reports are created.
            event(logger, logging.ERROR, "control process not reading reports; reception paused")
            self._channel.wait_until_sent(MAX_UNSENT_REPORT_BYTES // 2)
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
    """The worker of this process, on its loop. `channel_fd` is a file descriptor of the channel."""

    def __init__(self, setup: WorkerSetup, channel_fd: int) -> None:
        self._setup = setup
        self._draining = asyncio.Event()
        self._decoder = Decoder()
        self._channel = WorkerChannel(
            socket.socket(fileno=channel_fd), self._on_frame, _exit_without_control_process
        )
        self.report = Reporter(self._channel)
        claims = ClaimClient(socket.socket(fileno=setup.claims), self._claim_released)
        self._folders = SeriesFolders(claims)
        scoreboard = Scoreboard(setup.scoreboard, setup.settings.workers)
        self._counts = scoreboard.counts(setup.number - 1)
        self._data_plane: DataPlane | None = None

    async def run(self) -> int:
        """Receive until `Drain` comes and associations have ended; return the exit status.

        It is 0, or 1 if the worker cannot start.
        """
        settings = self._setup.settings
        try:
            self._data_plane = data_plane = DataPlane(
                settings,
                journal=journal_of(settings, self._setup.writer),
                reports=self.report,
                folders=self._folders,
                counts=self._counts,
            )
        except (OSError, OperatorError) as error:
            fault = error if isinstance(error, OperatorError) else unusable_storage(error)
            self.report(StartFailed(list(fault.faults)))
            self._send_last_reports(START_FAILURE_REPORT_S)
            return 1
        # Objects created so far stay until the end; freezing lets the garbage collector skip them.
        gc.collect()
        gc.freeze()
        self.report(WorkerReady())
        self.report.flush()
        if settings.admin_port is not None:
            from oxidicom.admin.liveness import Heartbeat

            Heartbeat(lambda: self.report(WorkerAlive()))
        await self._draining.wait()
        began = time.monotonic()
        budget = ShutdownBudget(associations_s=settings.drain_timeout)
        await data_plane.drain()
        self._send_last_reports(began + budget.workers_s - time.monotonic())
        return 0

    def _begin_accepting(self) -> None:
        assert self._data_plane is not None
        self._data_plane.join(self._port(self._setup.plain), self._port(self._setup.tls))

    def _port(self, listening: tuple[int, ...]) -> SharedPort | None:
        if not listening:
            return None
        return SharedPort([socket.socket(fileno=fd) for fd in listening], self._counts)

    def _send_last_reports(self, timeout: float) -> None:
        self.report.flush()
        if not self._channel.wait_until_sent(0, timeout):
            event(logger, logging.ERROR, "control process did not read the last reports")

    def _claim_released(self, key: SeriesKey) -> None:
        self.report(ClaimReleased(*key))

    def _on_frame(self, frame: bytearray) -> None:
        for message in self._decoder.decode(frame):
            match message:
                case RegistrationQueued():
                    key = SeriesKey(message.pacs_name, message.series_instance_uid)
                    self._folders.completed(key, message.associations)
                case BeginAccepting():
                    self._begin_accepting()
                case ReloadCertificate():
                    assert self._data_plane is not None
                    self._data_plane.reload()
                case Drain():
                    self._draining.set()


def _exit_without_control_process() -> None:
    """Exit at once, with status 1.

    Acknowledged instances are in the journal; senders repeat those in flight.
    """
    event(logger, logging.ERROR, "control process gone; worker exits")
    os._exit(1)


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent, the process `parent`, ends.

    A loop that is blocked in a storage call would not notice that the channel is closed.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _receive_setup(channel_fd: int) -> WorkerSetup:
    """Read the set-up from the channel: its length in 4 bytes, big-endian, then a pickle.

    Raises EOFError or OSError if the control process is gone.
    """
    end = socket.socket(fileno=channel_fd)
    try:
        length = int.from_bytes(_exactly(end, 4))
        setup = pickle.loads(_exactly(end, length))
    finally:
        end.detach()
    assert isinstance(setup, WorkerSetup)
    return setup


def _exactly(end: socket.socket, length: int) -> bytes:
    data = end.recv(length, socket.MSG_WAITALL)
    if len(data) < length:
        raise EOFError
    return data


def main() -> None:
    """Run a worker, and end the process.

    The first command-line argument is the file descriptor of its channel.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # A terminal's Ctrl-C reaches the whole process group; only the control process acts on it.
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
    channel_fd = int(sys.argv[1])
    setup = _receive_setup(channel_fd)
    name_this_thread(f"ox-worker-{setup.number}")
    _die_with(setup.parent)
    settings = setup.settings
    logs.configure(
        settings.log_level, settings.log_format, log_phi=settings.log_phi, worker=setup.number
    )
    logs.log_uncaught_errors()

    async def work() -> int:
        asyncio.get_running_loop().set_exception_handler(logs.on_loop_error)
        return await Worker(setup, channel_fd).run()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        status = runner.run(work())
        # A normal exit of the interpreter would wait for threads blocked in storage calls.
        os._exit(status)
