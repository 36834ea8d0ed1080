"""A server that runs while it is needed, and is ended by its own process id."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

START_TIMEOUT = 60.0
STOP_TIMEOUT = 60.0
"""Seconds for a server to end: the receiver's drain timeout and Orthanc's last jobs fit in."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def accepts(port: int) -> bool:
    """Return whether a server listens on a port of this machine."""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


class ServerError(Exception):
    """A server did not start, or did not end well; the text ends with its output."""


class Server:
    """A server that answers once it is entered and has ended once it is left. Subclasses say when
    it answers."""

    name = ""

    def __init__(self, command: list[str], environment: Mapping[str, str], log: Path) -> None:
        self._command = command
        self._environment = environment
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def answers(self) -> bool:
        raise NotImplementedError

    def __enter__(self) -> Self:
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                self._command,
                env=dict(self._environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # Ctrl-C reaches this process only, which ends the server when its peers are done.
                process_group=0,
            )
        try:
            deadline = time.monotonic() + START_TIMEOUT
            while not self.answers():
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise ServerError(f"{self.name} does not start: {self._said()}")
                time.sleep(0.05)  # another program opens its port: there is no event to wait for
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        status = self._end()
        if status and error is None:
            raise ServerError(f"{self.name} ended with status {status}: {self._said()}")

    def _end(self) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        process.terminate()
        try:
            return process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def _said(self) -> str:
        said = self._log.read_text(errors="replace").strip()[-500:]
        return f"{said}\n(all of it in {self._log})"


def environment_without(prefixes: tuple[str, ...]) -> dict[str, str]:
    """Return our environment without the variables that would change a server."""
    return {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
