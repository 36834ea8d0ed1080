"""Private brokers from Debian's packages (rabbitmq-server, nats-server, redis-server).

Each listens on free ports of 127.0.0.1, keeps its files in a folder of its own and runs as a child
of ours in a process group of its own: nothing of the machine's own brokers is touched or needed.
`stop` and `start` again on the same port, with the same files, to see a broker go and come back.
`Gate` is between a client and a broker, to cut or freeze the line at a chosen moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.ports import free_port
from tests.support.processes import dying_with_us

PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/lib/rabbitmq/bin"))
START_TIMEOUT = 60.0
STOP_TIMEOUT = 20.0


def find_program(name: str) -> str | None:
    return shutil.which(name, path=PATH)


class BrokerStartError(Exception):
    pass


class Broker:
    """One server process. Subclasses say how to run it and what it greets with."""

    program = ""
    scheme = ""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.address}"

    def command(self) -> list[str]:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return {"PATH": PATH, "HOME": str(self.folder), "LANG": "C.UTF-8"}

    def is_ready(self) -> bool:
        raise NotImplementedError

    def start(self) -> None:
        """Return when it serves."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "output.log", "ab") as output:
            self.process = subprocess.Popen(
                dying_with_us(self.command()),
                env=self.environment(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait_until_ready(self.process)
        except BaseException:  # Ctrl-C too: nothing else would end it
            self.stop()
            raise

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not self.is_ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise BrokerStartError(f"{self.program}, see {self.folder / 'output.log'}")
            time.sleep(0.05)

    def stop(self, *, kill: bool = False) -> None:
        """`kill`: without a chance to tidy up."""
        process, self.process = self.process, None
        if process is None:
            return
        self._signal(process, signal.SIGKILL if kill else signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            pass
        finally:
            # Its children too, whatever became of it.
            self._signal(process, signal.SIGKILL)
            process.wait()

    def freeze(self) -> None:
        """Connections stay, nothing is answered; until `thaw`."""
        assert self.process is not None
        self._signal(self.process, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self._signal(self.process, signal.SIGCONT)

    def greeting(self, hello: bytes = b"", length: int = 1) -> bytes:
        """Return what the broker answers to `hello`; nothing if it does not listen."""
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection,
        ):
            connection.sendall(hello)
            return connection.recv(length)
        return b""

    @staticmethod
    def _signal(process: subprocess.Popen[bytes], number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop(kill=kind is not None)


class NatsServer(Broker):
    """`extra`: further arguments, say for TLS or a login."""

    program = "nats-server"
    scheme = "nats"

    def __init__(self, folder: Path, extra: Iterable[str] = ()) -> None:
        super().__init__(folder)
        self.extra = tuple(extra)

    def command(self) -> list[str]:
        program = find_program(self.program) or self.program
        return [program, "-a", "127.0.0.1", "-p", str(self.port), *self.extra]

    def is_ready(self) -> bool:
        return self.greeting(length=4) == b"INFO"


class RedisServer(Broker):
    """Keeps nothing on disk. `extra`: further arguments, say for TLS, a password or to keep it."""

    program = "redis-server"
    scheme = "redis"

    def __init__(self, folder: Path, extra: Iterable[str] = ()) -> None:
        super().__init__(folder)
        self.extra = tuple(extra)

    def command(self) -> list[str]:
        program = find_program(self.program) or self.program
        return [program, "--bind", "127.0.0.1", "--port", str(self.port), "--save", "", *self.extra]

    def is_ready(self) -> bool:
        return self.greeting(b"PING\r\n", 5) in (b"+PONG", b"-NOAU", b"-ERR ")


class RabbitMQ(Broker):
    """With an epmd of its own, so that it is a cluster of one, alone on the machine."""

    program = "rabbitmq-server"
    scheme = "amqp"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.epmd_port = free_port()
        self.distribution_port = free_port()
        self._epmd: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@{self.address}/"

    def command(self) -> list[str]:
        # Not the wrapper of /usr/sbin, which insists on the user rabbitmq.
        return ["/usr/lib/rabbitmq/bin/rabbitmq-server"]

    def environment(self) -> dict[str, str]:
        for name in ("rabbitmq.conf", "advanced.config", "plugins", "rabbitmq-env.conf"):
            file = self.folder / name
            if not file.exists():
                file.write_text("[].\n" if name in ("advanced.config", "plugins") else "")
        (self.folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.default = 127.0.0.1:{self.port}\nloopback_users = none\n"
        )
        return super().environment() | {
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self.epmd_port),
            "ERL_FLAGS": "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "advanced.config"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "rabbitmq-env.conf"),
            "RABBITMQ_DIST_PORT": str(self.distribution_port),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_NODENAME": f"oxidicom{self.port}@localhost",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none +sbwtdcpu none",
        }

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._epmd is None:
            self._epmd = subprocess.Popen(
                dying_with_us(["epmd", "-address", "127.0.0.1", "-port", str(self.epmd_port)]),
                env=super().environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        try:
            super().start()
        except BaseException:
            self._stop_epmd()
            raise

    def stop(self, *, kill: bool = False) -> None:
        try:
            super().stop(kill=kill)
        finally:
            self._stop_epmd()

    def is_ready(self) -> bool:
        return self.greeting(b"AMQP\x00\x00\x09\x01") == b"\x01"

    def _stop_epmd(self) -> None:
        epmd, self._epmd = self._epmd, None
        if epmd is not None:
            epmd.kill()
            epmd.wait()


class Gate:
    """A line to `port` that can be cut, frozen and shut; of the running loop.

    `shut` refuses connections, `cut` aborts those that stand, `hold_replies` keeps what the broker
    says from the client: confirmations are then under way but never arrive.
    """

    def __init__(self, port: int) -> None:
        self.target = port
        self.port = free_port()
        self.accepted = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._lines: set[asyncio.Task[None]] = set()
        self._replies = asyncio.Event()
        self._replies.set()
        self.held = asyncio.Event()
        """Set when a reply is being held back."""

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def shut(self) -> None:
        """Refuse new connections and cut those that stand."""
        if self._server is not None:
            self._server.close()
            self._server = None
        await self.cut()

    async def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        lines = list(self._lines)
        for line in lines:
            line.cancel()
        await asyncio.gather(*lines, return_exceptions=True)

    def hold_replies(self) -> None:
        self.held.clear()
        self._replies.clear()

    def release_replies(self) -> None:
        self._replies.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = asyncio.current_task()
        assert line is not None
        self._lines.add(line)
        self._writers.add(writer)
        self.accepted += 1
        far: asyncio.StreamWriter | None = None
        try:
            near_reader, far = await asyncio.open_connection("127.0.0.1", self.target)
            self._writers.add(far)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(reader, far))
                both.create_task(self._pump(near_reader, writer, replies=True))
        except (OSError, asyncio.CancelledError, ExceptionGroup):
            pass
        finally:
            self._lines.discard(line)
            for end in (writer, far):
                if end is not None:
                    self._writers.discard(end)
                    end.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, replies: bool = False
    ) -> None:
        while data := await reader.read(65536):
            if replies and not self._replies.is_set():
                self.held.set()
                await self._replies.wait()
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError  # one end closed: the other follows

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.shut()
