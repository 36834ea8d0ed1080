"""A receiver while it runs: its start, its end, and what it costs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

START_TIMEOUT = 30.0
"""Seconds until a receiver must answer on its port."""

STOP_TIMEOUT = 15.0
"""Seconds from the signal until the receiver is killed; longer than a drain with nothing to wait
for."""

_SETTINGS = ("OXIDICOM_", "CHRIS_", "OTEL_", "RUST_LOG", "TOKIO_WORKER_THREADS", "PORT", "DEBUG")
"""Beginnings of variables that would change a receiver without the benchmark's knowledge."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class StartError(Exception):
    """The receiver did not start; the text ends with its output."""


class Running:
    """The processes of a receiver, from the moment when its port answers."""

    def __init__(
        self,
        command: list[str],
        environment: Mapping[str, str],
        port: int,
        log: Path,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self._port = port
        self._log = log
        self._stop_signal = stop_signal
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(_SETTINGS)}
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                env=inherited | dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def __enter__(self) -> Self:
        deadline = time.monotonic() + START_TIMEOUT
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise StartError(self._log.read_text(errors="replace").strip()[-500:])
            time.sleep(0.02)  # another program opens its port: there is no event to wait for
        return self

    def __exit__(self, *_: object) -> None:
        descendants = self._processes()[1:]
        self._process.send_signal(self._stop_signal)
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pid in descendants:  # children that have outlived their parent
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self._port), 1).close()
        except OSError:
            return False
        return True

    def cpu_seconds(self) -> float:
        """Return user and system time of all processes so far, in seconds, including those that
        have ended and were waited for. The resolution is 10 ms."""
        ticks = 0
        for pid in self._processes():
            fields = _proc(pid, "stat").rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def peak_resident_bytes(self) -> int:
        """Return the peak resident memory in bytes: that of the first process, plus for each
        further process what it does not share and how far its peak was above what is resident
        now."""
        first, *others = self._processes()
        total = _kilobytes(_proc(first, "status"), "VmHWM")
        for pid in others:
            status, private = _proc(pid, "status"), _proc(pid, "smaps_rollup")
            total += _kilobytes(private, "Private_Clean") + _kilobytes(private, "Private_Dirty")
            total += _kilobytes(status, "VmHWM") - _kilobytes(status, "VmRSS")
        return total * 1024

    def _processes(self) -> list[int]:
        found = [self._process.pid]
        for pid in found:  # grows as it goes
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                try:
                    found += map(int, task.read_text().split())
                except OSError:
                    continue
        return found


def _proc(pid: int, name: str) -> str:
    """Return the text of a file of /proc, or an empty text for a process that has just ended."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except OSError:
        return ""


def _kilobytes(text: str, name: str) -> int:
    """Return the kilobytes of a line such as `VmRSS: 1234 kB`, or 0 where there is none."""
    for line in text.splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    return 0
