"""The workers as the notifier has them: each a process with its channel and its claims."""

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
from oxidicom.app.worker import Orders
from oxidicom.app.worker_channel import WorkerChannel, socket_pair
from oxidicom.app.worker_messages import (
    Alive,
    Decoder,
    Encoder,
    Failed,
    Message,
    NamesReleased,
    Ready,
)
from oxidicom.net.shared_port import Scoreboard
from oxidicom.ports import AssociationBegan, AssociationEnded, Reports, SeriesKey
from oxidicom.settings import Settings
from oxidicom.ulid import new_ulid

MOST_BACKLOG: Final = 20_000
"""Reports that the control plane has not looked at: with more, no worker is listened to."""
_EXIT: Final = 1.0
"""Seconds for a process to end whose channel is closed."""

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class WorkerProcess:
    """One worker from its start to its end; raises OSError where there can be none.

    `reports` is given what it tells, `backlog` how much of that is not looked at yet; `alive` is
    called with its number for each sign of life.
    """

    def __init__(
        self,
        number: int,
        settings: Settings,
        plain: Sequence[socket.socket],
        tls: Sequence[socket.socket],
        load: Scoreboard,
        receiver: str,
        names: FolderClaims,
        reports: Reports,
        backlog: Callable[[], int],
        alive: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.number = number
        self.writer = f"{receiver}/{new_ulid()}"
        self.began = time.monotonic()
        self.associations: set[str] = set()
        """Open now."""
        self.ready = asyncio.Event()
        """It could accept connections, or never will."""
        self.ended = asyncio.Event()
        """Nothing more will be heard of it."""
        self.faults: tuple[str, ...] = ()
        self._names = names
        self._reports = reports
        self._backlog = backlog
        self._alive = alive
        self._encoder = Encoder()
        self._decoder = Decoder()
        self._loop = asyncio.get_running_loop()
        channel, their_channel = socket_pair(socket.SOCK_STREAM)
        claims, their_claims = socket_pair(socket.SOCK_SEQPACKET)
        orders = Orders(
            number,
            self.writer,
            settings,
            tuple(each.fileno() for each in plain),
            tuple(each.fileno() for each in tls),
            their_claims.fileno(),
            load.fd,
            os.getpid(),
        )
        with their_channel, their_claims:
            handed = (
                *(their_channel.fileno(), orders.claims, orders.load),
                *(*orders.plain, *orders.tls),
            )
            try:
                self._process = _start(handed)
            except BaseException:
                channel.close()
                claims.close()
                raise
        self.pid = self._process.pid
        payload = pickle.dumps(orders)
        channel.sendall(len(payload).to_bytes(4) + payload)
        self._claims = ClaimServer(claims, self.writer, names)
        self._loop.add_reader(self._claims, self._on_claim)
        self._channel = WorkerChannel(channel, self._on_frame, self._on_end, self._may_listen)

    def send(self, message: Message) -> None:
        self._channel.send(self._encoder.encode((message,)))

    def kill(self) -> None:
        self._process.kill()

    async def exit_status(self) -> int:
        """Of a process whose channel is closed: negative is a signal's number."""
        try:
            return await asyncio.to_thread(self._process.wait, _EXIT)
        except subprocess.TimeoutExpired:
            # It hangs in its storage, perhaps. It has nobody to answer for any longer.
            self._process.kill()
            return -signal.SIGKILL

    # ---- what it says --------------------------------------------------------------------

    def _on_claim(self) -> None:
        if not self._claims.answer():
            self._loop.remove_reader(self._claims)

    def _on_frame(self, frame: bytearray) -> None:
        for message in self._decoder.decode(frame):
            match message:
                case NamesReleased():
                    self._names.release(self.writer, SeriesKey(*message))
                case Ready():
                    self.ready.set()
                case Alive():
                    self._alive(self.number)
                case Failed():
                    self.faults = tuple(message.faults)
                case AssociationBegan():
                    self.associations.add(message.association_id)
                    self._reports(message._replace(worker=self.number))
                case AssociationEnded():
                    self.associations.discard(message.association_id)
                    self._reports(message)
                case _:
                    self._reports(message)  # type: ignore[arg-type]

    def _may_listen(self) -> bool:
        return self._backlog() <= MOST_BACKLOG

    def _on_end(self) -> None:
        self._loop.remove_reader(self._claims)
        self._claims.close()
        self.ready.set()
        self.ended.set()


def _start(handed: Sequence[int]) -> subprocess.Popen[bytes]:
    """The first of the file descriptors is the channel's."""
    # A Ctrl-C before the worker has said that it does not mind would end it: it inherits this.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        return subprocess.Popen(
            # Without the folder where we happen to stand among those of Python's modules.
            [sys.executable, "-P", "-m", "oxidicom.app", str(handed[0])],
            stdin=subprocess.DEVNULL,
            pass_fds=handed,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
