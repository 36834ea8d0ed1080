"""A worker as the control process sees it: a child process, its channel and its folder claims."""

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
"""While the control plane has more reports to process, no worker's channel is read."""
WORKER_EXIT_S: Final = 1.0
"""Seconds for a process to exit after its channel was closed, before it is killed. At shutdown the
supervisor does not wait for that beyond the workers' share (ShutdownBudget)."""

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class WorkerProcess:
    """One worker process from its start to its end. Raises OSError if it cannot be created.

    `reports` is called with each of its reports, `backlog` returns how many reports the control
    plane has yet to process, and `alive` is called with its number while its loop turns.
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
        self.began = time.monotonic()
        self.associations: set[str] = set()
        """Identifiers of its open associations."""
        self.ready = asyncio.Event()
        """Set once it could accept connections, has failed to start, or has ended."""
        self.ended = asyncio.Event()
        """Set once its channel is closed."""
        self.faults: tuple[str, ...] = ()
        """Why it could not start, one line each."""
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
        """Start the process and send its set-up; return our ends of its channel and for claims.

        Raises OSError.
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
        self._channel.send(self._encoder.encode((message,)))

    def kill(self) -> None:
        self._process.kill()

    async def exit_status(self) -> int:
        """Return the exit status once the channel is closed; -N if signal N ended the process."""
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
    """Start worker `number` with these file descriptors, of which the first is its channel's."""
    # The child inherits the mask: a Ctrl-C must not end it before it ignores SIGINT.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        return subprocess.Popen(
            # -P: without it modules of the current folder would shadow others. The last two
            # arguments are for people who read `ps`.
            [sys.executable, "-P", "-m", "oxidicom.app", str(inherited[0]), "worker", str(number)],
            stdin=subprocess.DEVNULL,
            pass_fds=inherited,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
