"""Registrations on disk until a broker has confirmed them (decision 35).

One file for each series, so that a newer registration replaces an older one in one rename
(decision 32). The methods block; `Courier` calls them on a thread of its own. What people do with
entries that were set aside is in `shelved`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from oxidicom.filesystem import (
    create_folder,
    read_small,
    remove_if_there,
    remove_stale_temporaries,
    write_atomically,
)
from oxidicom.logevents import event
from oxidicom.notify.cube_fields import fit
from oxidicom.ports import Registration, SeriesKey

PENDING: Final = ".json"
CORRUPT: Final = ".corrupt"
REFUSED: Final = ".refused"
CLAIMED: Final = ".retry"
"""A refused entry amid its way back: by this name no receiver knows it."""

PATIENCE: Final = 60.0
"""Seconds for which an entry of unknown origin is left to the receiver that wrote it."""

LONGEST_REASON: Final = 2000
"""Characters."""

_SUFFIX: Final = len(PENDING)
_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

logger = logging.getLogger("oxidicom.outbox")


class Refusal(msgspec.Struct, frozen=True):
    """Why the broker will never take an entry."""

    reason: str
    """For a person; no patient data."""
    at: float
    """Seconds since the epoch."""
    attempts: int = 1
    """To deliver it, since it was put or last retried, as far as that run knows."""


class OutboxEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    registration: Registration
    task_id: str
    """A UUID; every attempt to deliver this entry carries it."""
    written_at: float
    """Seconds since the epoch, for people, and to tell an older count from a newer one."""
    refusal: Refusal | None = None
    """The last one; of a pending entry, it was put back since."""

    @property
    def name(self) -> str:
        return entry_name(self.registration.series.key)


_decoder: Final = msgspec.json.Decoder(OutboxEntry)


def decode(name: str, data: bytes) -> OutboxEntry:
    """Raises ValueError, which says without quoting anything why it is not the entry `name`."""
    entry = _decoder.decode(data)
    if entry.name != name:
        raise ValueError("it is another series' entry, under a name that is not its own")
    return entry


def entry_name(key: SeriesKey) -> str:
    """Hashed, since an AE title is no file name."""
    return hashlib.sha256("\0".join(key).encode("utf-8", "surrogatepass")).hexdigest()[:40]


class OutboxScan(NamedTuple):
    """What one look at the folder found."""

    names: list[str]
    """Of pending entries that nobody here knows, those written first first."""
    left: bool
    """Others are so young that whoever wrote them may be at them: look again."""


class OutboxCounts(NamedTuple):
    pending: int
    refused: int
    oldest_at: float | None
    """When the oldest pending one was written: seconds since the epoch."""


class Outbox:
    """`sync`: every entry is fsynced, with its folder, before `put` returns."""

    def __init__(self, folder: Path, *, sync: bool) -> None:
        self._folder = folder
        self._sync = sync
        self._replacing = threading.Lock()

    def put(self, entry: OutboxEntry) -> None:
        """Replace the series' older entry, if there is one. Raises OSError."""
        with self._replacing:
            create_folder(self._folder, sync=self._sync)
            self._write(entry, PENDING)

    def sweep(self) -> None:
        """Remove what killed writers left half written. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            remove_stale_temporaries(self._folder)

    def names(self) -> list[str]:
        """Of all pending entries, those written first first. Raises OSError."""
        self.sweep()
        return self.look(lambda _: False, patience=0.0).names

    def look(self, knows: Callable[[str], bool], *, patience: float = PATIENCE) -> OutboxScan:
        """Raises OSError. Of those that the caller knows nothing but the name is read."""
        found: list[tuple[int, str]] = []
        left = False
        youngest = time.time() - patience
        with contextlib.suppress(FileNotFoundError), os.scandir(self._folder) as entries:
            for entry in entries:
                file = entry.name
                if file[-_SUFFIX:] != PENDING or knows(name := file[:-_SUFFIX]) or file[0] == ".":
                    continue
                # It may be delivered, or replaced, in this very moment.
                with contextlib.suppress(FileNotFoundError):
                    written = entry.stat(follow_symlinks=False).st_mtime_ns
                    if patience and written / 1e9 > youngest and not self._was_put_back(name):
                        left = True
                    else:
                        found.append((written, name))
        return OutboxScan([name for _, name in sorted(found)], left)

    def _was_put_back(self, name: str) -> bool:
        try:
            return decode(name, read_small(self._path(name))).refusal is not None
        except ValueError:
            return True  # no receiver writes such a thing: it is ours to set aside
        except OSError:
            return False

    def standing(self) -> OutboxCounts:
        """Raises OSError."""
        pending = refused = 0
        oldest: float | None = None
        with contextlib.suppress(FileNotFoundError), os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.endswith(REFUSED):
                    refused += 1
                elif entry.name.endswith(PENDING) and entry.name[0] != ".":
                    with contextlib.suppress(FileNotFoundError):
                        written = entry.stat(follow_symlinks=False).st_mtime
                        pending += 1
                        oldest = written if oldest is None else min(oldest, written)
        return OutboxCounts(pending, refused, oldest)

    def changed_at(self) -> int:
        """Of the folder: the same again if no entry came or went; raises OSError."""
        try:
            return os.stat(self._folder).st_mtime_ns
        except FileNotFoundError:
            return 0

    def read(self, name: str) -> OutboxEntry | None:
        """None if it is gone, or is no entry: then it is set aside. Raises OSError."""
        with self._replacing:
            try:
                return decode(name, read_small(self._path(name)))
            except FileNotFoundError:
                return None
            except ValueError:
                self._set_aside_as_corrupt(name)
                event(
                    logger,
                    logging.ERROR,
                    "outbox entry corrupt; see `oxidicom outbox show`",
                    entry=name[:12],
                )
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
        """It is confirmed, and with it all that is older of its series, refused or not.

        False if a newer entry of the series stands there; it stays. Raises OSError.
        """
        with self._replacing:
            for suffix in (REFUSED, CLAIMED):  # the way that a person moves it
                self._remove_unless_newer(entry, suffix)
            if not self._still_holds(entry):
                return False
            remove_if_there(self._path(entry.name))
            return True

    def refuse(self, entry: OutboxEntry, reason: str, attempts: int = 1) -> bool:
        """Keep the entry and the reason for a person, but no longer pending; otherwise as `remove`.

        On a full disk without the reason."""
        refused = msgspec.structs.replace(
            entry, refusal=Refusal(reason[:LONGEST_REASON], time.time(), attempts)
        )
        with self._replacing:
            if not self._still_holds(entry):
                return False
            try:
                # In this order: whoever dies in between leaves it pending, to be refused again.
                self._write(refused, REFUSED)
                remove_if_there(self._path(entry.name))
            except OSError as error:
                if error.errno not in _NO_SPACE:
                    raise
                self._path(entry.name).replace(self._path(entry.name, REFUSED))
            return True

    def _write(self, entry: OutboxEntry, suffix: str) -> None:
        data = msgspec.json.encode(entry)
        write_atomically(self._folder, entry.name + suffix, data, sync=self._sync)

    def _remove_unless_newer(self, entry: OutboxEntry, suffix: str) -> None:
        try:
            other = decode(entry.name, read_small(self._path(entry.name, suffix)))
        except (OSError, ValueError):  # what cannot be read is a person's
            return
        if other.written_at <= entry.written_at:
            remove_if_there(self._path(entry.name, suffix))

    def _still_holds(self, entry: OutboxEntry) -> bool:
        try:
            there = decode(entry.name, read_small(self._path(entry.name)))
        except FileNotFoundError:
            return True
        except ValueError:
            return False
        return there.task_id == entry.task_id

    def _set_aside_as_corrupt(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._path(name).replace(self._path(name, CORRUPT))

    def _path(self, name: str, suffix: str = PENDING) -> Path:
        return self._folder / (name + suffix)


def new_entry(registration: Registration) -> OutboxEntry:
    """With texts cut to CUBE's limits: whatever a sender wrote, the entry is a small file."""
    return OutboxEntry(fit(registration), str(uuid.uuid4()), time.time())
