"""The receivers that are measured: how each is started, and what it costs while it runs."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple, Self

from benchmarks.sender import MAX_LENGTH

START_TIMEOUT = 30.0
"""Seconds until a receiver must answer on its port."""

STOP_TIMEOUT = 15.0
"""Seconds after SIGTERM until it is killed; longer than a drain with nothing to wait for."""


class Receiver(NamedTuple):
    name: str
    version: str
    command: Callable[[int, Path], list[str]]
    """Of a port and the folder to store into."""
    environment: Callable[[int, Path], dict[str, str]] = lambda port, folder: {}
    stores_in: str = ""
    """Folder below the one given: what stands elsewhere was not stored."""
    share: float = 1.0
    """Of a trial's instances, for one that is slower by an order."""


def oxidicom(broker: str | None, nats: str | None) -> Receiver:
    """The package installed in the running environment; without a broker, registrations stay in
    its outbox on disk."""

    def environment(port: int, folder: Path) -> dict[str, str]:
        settings = {
            "OXIDICOM_FILES_ROOT": str(folder),
            "OXIDICOM_LISTENER_PORT": str(port),
            "OXIDICOM_SCP_MAX_PDU_LENGTH": str(MAX_LENGTH),
            "OXIDICOM_CELERY_BROKER": broker,
            "OXIDICOM_NATS_ADDRESS": nats,
        }
        return {name: value for name, value in settings.items() if value is not None}

    return Receiver(
        name="oxidicom",
        version=_package_version("oxidicom") or "not installed",
        command=lambda port, folder: [sys.executable, "-m", "oxidicom", "serve"],
        environment=environment,
        stores_in="SERVICES/PACS",
    )


def dcmtk() -> Receiver | None:
    """DCMTK's storescp, bit preserving; it forks, since it would else take one peer at a time."""
    found = shutil.which("storescp")
    if not found:
        return None
    said = subprocess.run([found, "--version"], capture_output=True, text=True, check=False)
    return Receiver(
        name="dcmtk",
        version=next(iter(said.stdout.splitlines()), "").strip("$ ").removeprefix("dcmtk: "),
        command=lambda port, folder: [
            *(found, "+B", "--fork", "--max-pdu", str(MAX_LENGTH), "-od", str(folder)),
            str(port),
        ],
        # Its answers leave in two segments: with Nagle's algorithm on, as it is by default, the
        # second waits for the sender's delayed acknowledgement, 40 ms an instance.
        environment=lambda port, folder: {"TCP_NODELAY": "1"},
    )


def pynetdicom() -> Receiver | None:
    found = _package_version("pynetdicom")
    if not found:
        return None
    return Receiver(
        name="pynetdicom",
        version=f"storescp of pynetdicom {found}",
        command=lambda port, folder: [
            *(sys.executable, "-m", "pynetdicom", "storescp", "--quiet"),
            *("--max-pdu", str(MAX_LENGTH), "-od", str(folder), str(port)),
        ],
        share=0.05,
    )


def _package_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class StartError(Exception):
    """The receiver did not come up; the text ends with what it said."""


class Running:
    """A receiver's processes, from the moment that its port answers."""

    def __init__(self, receiver: Receiver, folder: Path, log: Path) -> None:
        self.port = free_port()
        self._log = log
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("OXIDICOM_")}
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                receiver.command(self.port, folder),
                env=inherited | receiver.environment(self.port, folder),
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
            time.sleep(0.02)  # another program's port: there is nothing to await
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def cpu_seconds(self) -> float:
        """User and system time of all its processes so far, in ticks of 10 ms."""
        ticks = 0
        for pid in self._processes():
            fields = _proc(pid, "stat").rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:13]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def peak_resident_bytes(self) -> int:
        """Sum over its processes; pages that they share count in each."""
        total = 0
        for pid in self._processes():
            for line in _proc(pid, "status").splitlines():
                if line.startswith("VmHWM:"):
                    total += int(line.split()[1]) * 1024
        return total

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
    """Empty numbers for a process that has just ended."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except OSError:
        return ") " + "0 " * 20 if name == "stat" else ""
