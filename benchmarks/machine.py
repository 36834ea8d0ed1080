"""The machine and the software of a measurement."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import msgspec


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    cpu: str
    cores: int
    memory_bytes: int
    kernel: str
    python: str
    storage: str
    """File system and folder; empty where nothing is stored."""
    load: float
    """Load average of the last minute when the benchmark began."""
    commit: str
    """Commit of the working tree, followed by `+` where files differ."""
    date: str

    def __str__(self) -> str:
        stored = f"; stored on {self.storage}" if self.storage else ""
        return (
            f"{self.cpu}, {self.cores} cores, {self.memory_bytes / 1e9:.0f} GB, "
            f"Linux {self.kernel}, Python {self.python}{stored}; "
            f"load {self.load:.1f} at the start; commit {self.commit}, {self.date}"
        )


def this_machine(root: Path | None = None) -> Machine:
    """Describe this machine. `root` is the folder that is stored into."""
    memory = (_field(Path("/proc/meminfo"), "MemTotal") or "0 kB").split()[0]
    return Machine(
        cpu=_field(Path("/proc/cpuinfo"), "model name") or platform.processor(),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=int(memory) * 1024,
        kernel=platform.release(),
        python=platform.python_version(),
        storage=f"{file_system(root)} at {root}" if root else "",
        load=os.getloadavg()[0],
        commit=_commit(),
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
    )


def file_system(folder: Path) -> str:
    """Return the type of the file system that holds `folder`."""
    resolved = folder.resolve()
    longest, kind = -1, "unknown"
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mounted, this, *_ = line.split()
        if resolved.is_relative_to(mounted) and len(mounted) >= longest:
            longest, kind = len(mounted), this
    return kind


def _field(path: Path, name: str) -> str | None:
    for line in path.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


def _commit() -> str:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
