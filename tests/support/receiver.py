"""The receiver as its users run it: `python -m oxidicom serve` in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from tests.support.processes import dying_with_us
from tests.support.timing import WAIT_LIMIT_S

PROJECT = Path(__file__).parents[2]

PYTHONPATH = f"{PROJECT / 'src'}:{PROJECT / 'tests/support/absent'}"

FOREIGN_VARIABLES = ("OXIDICOM_", "CHRIS_", "OTEL_", "PORT", "RUST_LOG", "TOKIO_")
"""Beginnings of variables of the tests' environment that must not reach the receiver."""


def wait_until(condition: Callable[[], bool], what: str, timeout: float = WAIT_LIMIT_S) -> None:
    """Wait for a condition that only the file system or /proc shows; everything else is awaited as
    an event."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout} s for {what}")
        time.sleep(0.01)


class Receiver:
    """One receiver process; restarts keep files root and settings.

    `environment` adds to the least settings that make it testable (a free port, JSON log lines, no
    settle time, no pause between registrations or before done), or removes one by None.
    """

    def __init__(self, root: Path, **environment: str | None) -> None:
        self.root = root
        self.state = root / ".oxidicom"
        self.environment: dict[str, str | None] = {
            "OXIDICOM_FILES_ROOT": str(root),
            "OXIDICOM_LISTENER_PORT": "0",
            "OXIDICOM_LOG_FORMAT": "json",
            "OXIDICOM_SERIES_SETTLE": "0s",
            "OXIDICOM_REGISTER_GAP": "0s",
            "OXIDICOM_DONE_DELAY": "0s",
            **environment,
        }
        self.port = 0
        self.tls_port = 0
        self.admin_port = 0
        """Port of the admin endpoint, 0 where there is none."""
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    @property
    def process(self) -> subprocess.Popen[str]:
        assert self._process is not None, "not started"
        return self._process

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process is None:
            return
        if kind is None and self.process.poll() is None:
            self.stop()
        else:
            self.kill()
            print("\n".join(self.lines), file=sys.stderr)

    # ---- lifecycle --------------------------------------------------------------------------

    def start(self, timeout: float = 2 * WAIT_LIMIT_S) -> None:
        """Start, and return when it listens."""
        self.launch()
        told = self.wait_for_log("listening", timeout)
        self.port, self.tls_port = told["port"] or 0, told["tls_port"] or 0
        self.admin_port = told["admin_port"] or 0

    def launch(self) -> None:
        """Start without waiting, for tests in which it never listens."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(FOREIGN_VARIABLES)
        }
        given = {name: value for name, value in self.environment.items() if value is not None}
        self.lines = []
        self._process = subprocess.Popen(
            dying_with_us([sys.executable, "-m", "oxidicom", "serve"]),
            env=inherited | {"PYTHONPATH": PYTHONPATH} | given,
            cwd=self.root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, args=[self._process], daemon=True)
        self._reader.start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout as stream:
            for line in stream:
                with self._changed:
                    self.lines.append(line.rstrip("\n"))
                    self._changed.notify_all()
        process.wait()
        with self._changed:
            self._changed.notify_all()

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = 2 * WAIT_LIMIT_S) -> int:
        """Wait for the end, read all of the log, and return the exit status."""
        status = self.process.wait(timeout)
        assert self._reader is not None
        self._reader.join(timeout)
        return status

    def stop(self, timeout: float = 2 * WAIT_LIMIT_S) -> None:
        """Send SIGTERM; the exit status must be 0 (decision 38)."""
        self.signal(signal.SIGTERM)
        status = self.wait(timeout)
        assert status == 0, f"exit status {status}\n" + "\n".join(self.lines[-20:])

    def kill(self) -> None:
        """Send SIGKILL to it and its children, as a power cut would end them."""
        for process in reversed(self.processes()):
            if process.is_running():
                process.kill()
        self.wait()

    # ---- its log --------------------------------------------------------------------------------

    def log(self, message: str | None = None) -> list[dict[str, Any]]:
        """Return the records of the log, oldest first, or only those of `message`."""
        with self._changed:
            lines = list(self.lines)
        records = (parse_log_line(line) for line in lines)
        return [
            record
            for record in records
            if record is not None and message in (None, record.get("message"))
        ]

    def wait_for_log(
        self, message: str, timeout: float = WAIT_LIMIT_S, *, count: int = 1
    ) -> dict[str, Any]:
        """Wait for the `count`th record of a message, and return it."""

        def told() -> bool:
            return len(self.log(message)) >= count or self.process.poll() is not None

        with self._changed:
            self._changed.wait_for(told, timeout)
        records = self.log(message)
        assert len(records) >= count, f"no {message!r} in the log:\n" + "\n".join(self.lines[-20:])
        return records[count - 1]

    # ---- its processes --------------------------------------------------------------------------

    def processes(self) -> list[psutil.Process]:
        """Return the process and its workers."""
        try:
            process = psutil.Process(self.process.pid)
            return [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def workers(self) -> list[psutil.Process]:
        """Return its receiving processes, where there are several."""
        return self.processes()[1:]

    def worker_of(self, peer_port: int) -> psutil.Process:
        """Return the worker that has the connection from a port."""

        def found() -> list[psutil.Process]:
            return [
                worker
                for worker in self.workers()
                for connection in worker.net_connections("tcp")
                if connection.raddr and connection.raddr.port == peer_port
            ]

        wait_until(lambda: bool(found()), f"a worker with the connection from {peer_port}")
        return found()[0]

    def peak_memory(self) -> int:
        """Return the peak resident memory so far in bytes (VmHWM), summed over its processes."""
        return sum(peak_memory(process.pid) for process in self.processes())

    def open_files(self) -> int:
        return sum(len(os.listdir(f"/proc/{process.pid}/fd")) for process in self.processes())

    # ---- its files ------------------------------------------------------------------------------

    def files(self, below: str = "SERVICES/PACS") -> list[Path]:
        """Return every file below the folder that CUBE reads, whatever its name."""
        return sorted(path for path in (self.root / below).rglob("*") if path.is_file())

    def paths(self) -> list[str]:
        return [path.relative_to(self.root).as_posix() for path in self.files()]

    def path_of(self, sop_instance: str) -> Path:
        """Return the path of the one file of an instance."""
        (path,) = (path for path in self.files() if path.name.endswith(f"-{sop_instance}.dcm"))
        return path

    def data_set_of(self, sop_instance: str) -> bytes:
        return stored_data_set(self.path_of(sop_instance))

    def leftovers(self) -> list[Path]:
        """Return temporary files and half-written records."""
        temporary = [path for path in (self.state / "tmp").rglob("*") if path.is_file()]
        return [*temporary, *self.state.rglob("*.tmp")]

    def outbox(self) -> list[dict[str, Any]]:
        """Return the registrations that no broker has confirmed, each with "series" and
        "ndicom"."""
        entries = []
        for path in (self.state / "outbox").glob("*.json"):
            with contextlib.suppress(FileNotFoundError):  # confirmed meanwhile
                entries.append(json.loads(path.read_bytes())["registration"])
        return entries

    def wait_for_outbox(self, count: int, timeout: float = WAIT_LIMIT_S) -> list[dict[str, Any]]:
        wait_until(lambda: len(self.outbox()) >= count, f"{count} entries in the outbox", timeout)
        entries = self.outbox()
        assert len(entries) == count, entries
        return entries

    def wait_for_registration(self, series: str, timeout: float = WAIT_LIMIT_S) -> dict[str, Any]:
        """Wait for the one outbox entry of a series, and return it."""

        def found() -> list[dict[str, Any]]:
            return [
                entry for entry in self.outbox() if entry["series"]["series_instance_uid"] == series
            ]

        wait_until(lambda: bool(found()), f"registration of {series}", timeout)
        (entry,) = found()
        return entry


def parse_log_line(line: str) -> dict[str, Any] | None:
    """Parse a line of the log. None for a line that is no JSON object: a traceback, a warning of
    the interpreter."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def peak_memory(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)


def stored_data_set(path: Path) -> bytes:
    """Return what follows the File Meta Information, by its group length (PS3.10 7.1)."""
    return path.read_bytes()[data_set_offset(path) :]


def data_set_offset(path: Path) -> int:
    with path.open("rb") as file:
        head = file.read(144)
    assert head[:132] == bytes(128) + b"DICM"
    assert head[132:140] == b"\x02\0\0\0UL\x04\0"
    return 144 + int.from_bytes(head[140:144], "little")
