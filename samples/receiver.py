"""The receiver of the samples: oxidicom in a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from pydicom import dcmread

from samples.process import Server, accepts, environment_without, free_port

AE_TITLE = "ChRIS"
_SETTINGS = ("OXIDICOM_", "CHRIS_", "OTEL_", "RUST_LOG", "TOKIO_WORKER_THREADS", "PORT")


class Destination(NamedTuple):
    host: str
    port: int
    ae_title: str = AE_TITLE


class Receiver(Server):
    """A receiver that stores below `root` and has no broker, so that registrations wait in its
    outbox."""

    name = "oxidicom"

    def __init__(self, root: Path, log: Path) -> None:
        self.root = root
        self.port = free_port()
        settings = {
            "OXIDICOM_FILES_ROOT": str(root.resolve()),
            "OXIDICOM_LISTENER_HOST": "127.0.0.1",
            "OXIDICOM_LISTENER_PORT": str(self.port),
            "OXIDICOM_SCP_AET": AE_TITLE,
            "PYTHONUNBUFFERED": "1",
        }
        root.mkdir(parents=True)
        command = [sys.executable, "-m", "oxidicom", "serve"]
        super().__init__(command, environment_without(_SETTINGS) | settings, log)

    @property
    def destination(self) -> Destination:
        return Destination("127.0.0.1", self.port)

    def answers(self) -> bool:
        return accepts(self.port)


def registrations_waiting(root: Path) -> int:
    """Return the number of entries of the outbox below the files root."""
    return len(list((root / ".oxidicom" / "outbox").glob("*.json")))


Standing = dict[Path, tuple[int, int]]
"""Files with inode and modification time, which change when an instance is sent again."""


def standing_on_disk(root: Path, calling_ae_title: str) -> Standing:
    """Return the files of one sender."""
    standing = {}
    for path in (root / "SERVICES" / "PACS" / calling_ae_title).rglob("*.dcm"):
        status = path.stat()
        standing[path] = status.st_ino, status.st_mtime_ns
    return standing


def found_on_disk(before: Standing, now: Standing, sent: Iterable[tuple[str, Path]]) -> int:
    """Return how many of the instances arrived since `before`, once each and equal to the file that
    was sent.

    `sent` are SOP Instance UIDs and files. Files are compared by elements, since the PACS may
    choose other lengths for its sequences.
    """
    places: dict[str, list[Path]] = {}
    for path, status in now.items():
        if before.get(path) != status:
            places.setdefault(path.stem.rpartition("-")[2], []).append(path)
    found = 0
    for sop_instance_uid, original in sent:
        match places.get(sop_instance_uid, []):
            case [path] if dcmread(path) == dcmread(original):
                found += 1
    return found
