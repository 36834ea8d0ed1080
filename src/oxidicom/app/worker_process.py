"""The control process' side of a worker: the child process, its channel and its folder claims."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final

from oxidicom.app.folder_claims import ClaimServer, FolderClaims
from oxidicom.app.worker import WorkerSetup
from oxidicom.app.worker_channel import WorkerChannel, socket_pair
from oxidicom.app.worker_messages import (
    ClaimReleased,
    Decoder,
    Encoder,
    Message,
    StartFailed,
    WorkerAlive,
    WorkerReady,
)
from oxidicom.net.shared_port import Scoreboard
from oxidicom.ports import AssociationBegan, AssociationEnded, Reports, SeriesKey
from oxidicom.settings import Settings
from oxidicom.ulid import new_ulid

MAX_UNPROCESSED_REPORTS: Final = 20_000
"""Number of unprocessed reports in the control plane above which no worker's channel is read."""
WORKER_EXIT_S: Final = 1.0
"""Seconds from the close of a worker's channel until the worker is killed if it has not exited.
During shutdown it is killed earlier if `ShutdownBudget.workers_s` is over."""

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
"""Signals that are blocked in a worker until it has set up its handling of signals."""


class WorkerProcess:
    """One worker process, as the control process uses it. The constructor starts it.

    `reports` is called with each report of the worker, and `alive` with its number at each
    heartbeat. `backlog` returns how many reports the control plane has yet to process. `receiver`
    is the name of the receiver. Raises OSError if the process cannot be created.
    """

    def __init__(
        self,
        number: int,
        settings: Settings,
        plain: Sequence[socket.socket],
        tls: Sequence[socket.socket],
        scoreboard: Scoreboard,
        receiver: str,
        claims: FolderClaims,
        reports: Reports,
        backlog: Callable[[], int],
        alive: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.number = number
        self.writer = f"{receiver}/{new_ulid()}"
        """The writer of this worker's journal entries: name of the receiver, `/`, a ULID."""
        self.began = time.monotonic()
        """When the worker was started, on the monotonic clock, in seconds."""
        self.associations: set[str] = set()
        """ULIDs of the worker's open associations."""
        self.ready = asyncio.Event()
        """Set once the worker waits for `BeginAccepting`, or has ended."""
        self.ended = asyncio.Event()
        """Set once the worker's channel is closed."""
        self.faults: tuple[str, ...] = ()
        """The reasons why the worker could not start, one line each; empty if it could."""
        self._folder_claims = claims
        self._reports = reports
        self._backlog = backlog
        self._alive = alive
        self._encoder = Encoder()
        self._decoder = Decoder()
        self._loop = asyncio.get_running_loop()
        channel, claim_socket = self._start(settings, plain, tls, scoreboard.fd)
        self._claim_server = ClaimServer(claim_socket, self.writer, claims)
        self._loop.add_reader(self._claim_server, self._on_claim)
        self._channel = WorkerChannel(channel, self._on_frame, self._on_closed, self._may_read)

    def _start(
        self,
        settings: Settings,
        plain: Sequence[socket.socket],
        tls: Sequence[socket.socket],
        scoreboard_fd: int,
    ) -> tuple[socket.socket, socket.socket]:
        """Start the process and send its set-up; return our ends of its two socket pairs.

        The first is its channel, the second the socket for its folder claims. Raises OSError.
        """
        channel, their_channel = socket_pair(socket.SOCK_STREAM)
        claim_socket, their_claim_socket = socket_pair(socket.SOCK_SEQPACKET)
        setup = WorkerSetup(
            self.number,
            self.writer,
            settings,
            tuple(each.fileno() for each in plain),
            tuple(each.fileno() for each in tls),
            their_claim_socket.fileno(),
            scoreboard_fd,
            os.getpid(),
        )
        with their_channel, their_claim_socket:
            inherited = (
                *(their_channel.fileno(), setup.claims, setup.scoreboard),
                *(*setup.plain, *setup.tls),
            )
            try:
                self._process = _popen(self.number, inherited)
            except BaseException:
                channel.close()
                claim_socket.close()
                raise
        self.pid = self._process.pid
        payload = pickle.dumps(setup)
        channel.sendall(len(payload).to_bytes(4) + payload)
        return channel, claim_socket

    def send(self, message: Message) -> None:
        """Send a message to the worker. Never waits."""
        self._channel.send(self._encoder.encode((message,)))

    def kill(self) -> None:
        """Send SIGKILL to the worker."""
        self._process.kill()

    async def exit_status(self) -> int:
        """Return the worker's exit status, or -N if signal N ended it. Call it once `ended` is set.

        A worker that does not exit within WORKER_EXIT_S seconds is killed.
        """
        try:
            return await asyncio.to_thread(self._process.wait, WORKER_EXIT_S)
        except subprocess.TimeoutExpired:
            # Probably blocked in a storage call; no associations remain, so kill it.
            self._process.kill()
            return -signal.SIGKILL

    # ---- what it sends -------------------------------------------------------------------

    def _on_claim(self) -> None:
        if not self._claim_server.answer():
            self._loop.remove_reader(self._claim_server)

    def _on_frame(self, frame: bytearray) -> None:
        for message in self._decoder.decode(frame):
            match message:
                case ClaimReleased():
                    self._folder_claims.release(self.writer, SeriesKey(*message))
                case WorkerReady():
                    self.ready.set()
                case WorkerAlive():
                    self._alive(self.number)
                case StartFailed():
                    self.faults = tuple(message.faults)
                case AssociationBegan():
                    self.associations.add(message.association_id)
                    self._reports(message._replace(worker=self.number))
                case AssociationEnded():
                    self.associations.discard(message.association_id)
                    self._reports(message)
                case _:
                    self._reports(message)  # type: ignore[arg-type]

    def _may_read(self) -> bool:
        return self._backlog() <= MAX_UNPROCESSED_REPORTS

    def _on_closed(self) -> None:
        self._loop.remove_reader(self._claim_server)
        self._claim_server.close()
        self.ready.set()
        self.ended.set()


def _popen(number: int, inherited: Sequence[int]) -> subprocess.Popen[bytes]:
    """Start worker `number`, which inherits these file descriptors. The first is its channel's.

    Raises OSError.
    """
    # The child inherits the signal mask: Ctrl-C must not end it before it ignores SIGINT.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        return subprocess.Popen(
            # Without -P, modules in the current folder would shadow others. The last two arguments
            # only identify the worker in the output of `ps`.
            [sys.executable, "-P", "-m", "oxidicom.app", str(inherited[0]), "worker", str(number)],
            stdin=subprocess.DEVNULL,
            pass_fds=inherited,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
