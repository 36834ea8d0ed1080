"""Registrations on disk until a broker has confirmed them (decision 35).

One file for each series, so that a newer registration replaces an older one in one rename
(decision 32). The methods block; `Courier` calls them on a thread of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from oxidicom.disk import (
    create_folder,
    read_small,
    remove_if_there,
    remove_stale_temporaries,
    write_atomically,
)
from oxidicom.notify.cube_fields import fit
from oxidicom.ports import Registration, SeriesKey

PENDING: Final = ".json"
CORRUPT: Final = ".corrupt"
REFUSED: Final = ".refused"

log = logging.getLogger(__name__)


class OutboxEntry(msgspec.Struct, frozen=True):
    registration: Registration
    task_id: str
    """A UUID; every attempt to deliver this entry carries it."""
    written_at: float
    """Seconds since the epoch, for people."""

    @property
    def name(self) -> str:
        return entry_name(self.registration.series.key)


def entry_name(key: SeriesKey) -> str:
    """Hashed, since an AE title is no file name."""
    return hashlib.sha256("\0".join(key).encode("utf-8", "surrogatepass")).hexdigest()[:40]


class Outbox:
    """`sync`: every entry is fsynced, with its folder, before `put` returns."""

    def __init__(self, folder: Path, *, sync: bool) -> None:
        self._folder = folder
        self._sync = sync
        self._replacing = threading.Lock()
        self._decoder = msgspec.json.Decoder(OutboxEntry)

    def put(self, entry: OutboxEntry) -> None:
        """Replace the series' older entry, if there is one. Raises OSError."""
        data = msgspec.json.encode(entry)
        with self._replacing:
            create_folder(self._folder, sync=self._sync)
            write_atomically(self._folder, entry.name + PENDING, data, sync=self._sync)

    def sweep(self) -> None:
        """Remove what killed writers left half written. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            remove_stale_temporaries(self._folder)

    def names(self) -> list[str]:
        """Of all pending entries, those written first first. Raises OSError."""
        self.sweep()
        found: list[tuple[int, str]] = []
        with contextlib.suppress(FileNotFoundError), os.scandir(self._folder) as entries:
            for entry in entries:
                name, suffix = os.path.splitext(entry.name)
                if suffix != PENDING or name.startswith("."):
                    continue
                # It may be delivered, or replaced, in this very moment.
                with contextlib.suppress(FileNotFoundError):
                    found.append((entry.stat(follow_symlinks=False).st_mtime_ns, name))
        return [name for _, name in sorted(found)]

    def read(self, name: str) -> OutboxEntry | None:
        """None if it is gone, or is no entry: then it is set aside. Raises OSError."""
        with self._replacing:
            try:
                return self._decoder.decode(read_small(self._path(name)))
            except FileNotFoundError:
                return None
            except msgspec.MsgspecError:
                self._set_aside(name, CORRUPT)
                log.error("outbox entry %s is corrupt; kept as %s%s", name, name, CORRUPT)
                return None

    def pending(self) -> Iterator[OutboxEntry]:
        """Oldest first, one in memory at a time. Raises OSError."""
        for name in self.names():
            entry = self.read(name)
            if entry is not None:
                yield entry

    def depth(self) -> int:
        return len(self.names())

    def remove(self, entry: OutboxEntry) -> bool:
        """False if a newer entry of the series stands there; it stays. Raises OSError."""
        with self._replacing:
            if not self._still_holds(entry):
                return False
            remove_if_there(self._path(entry.name))
            return True

    def refuse(self, entry: OutboxEntry) -> bool:
        """Keep the entry for a person to look at, but no longer pending; otherwise as `remove`."""
        with self._replacing:
            if not self._still_holds(entry):
                return False
            self._set_aside(entry.name, REFUSED)
            return True

    def _still_holds(self, entry: OutboxEntry) -> bool:
        try:
            return self._decoder.decode(read_small(self._path(entry.name))) == entry
        except FileNotFoundError:
            return True
        except msgspec.MsgspecError:
            return False

    def _set_aside(self, name: str, suffix: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._path(name).replace(self._folder / (name + suffix))

    def _path(self, name: str) -> Path:
        return self._folder / (name + PENDING)


def new_entry(registration: Registration) -> OutboxEntry:
    """With texts cut to CUBE's limits: whatever a sender wrote, the entry is a small file."""
    return OutboxEntry(fit(registration), str(uuid.uuid4()), time.time())
