"""Keeps registrations on disk until they are confirmed by a broker or by CUBE (decision 35).

There is one file for each series, so that a newer registration replaces an older one in one rename
(decision 32). The methods block; `OutboxRelay` calls them on a thread of its own. The module
`outbox_inspect` has the operator's commands for refused and corrupt entries.
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
    MAX_SMALL_FILE,
    create_folder,
    read_small,
    remove_if_there,
    remove_stale_temporaries,
    write_atomically,
)
from oxidicom.logevents import event
from oxidicom.ports import Registration, SeriesKey

PENDING_SUFFIX: Final = ".json"
CORRUPT_SUFFIX: Final = ".corrupt"
REFUSED_SUFFIX: Final = ".refused"
CLAIMED_SUFFIX: Final = ".retry"
"""Suffixes of an entry's file. A claimed entry is a refused one that an operator is requeueing;
receivers ignore it."""

OUTBOX_ENTRY_GRACE_S: Final = 60.0
"""Age in seconds from which a scan returns an entry that this process does not know. A younger one
is probably being delivered by the receiver that wrote it. Requeued and corrupt entries are returned
at any age."""

MAX_REFUSAL_CHARACTERS: Final = 2000
"""Number of characters to which the reason of a refusal is cut."""

_SUFFIX_LENGTH: Final = len(PENDING_SUFFIX)
_NO_SPACE_ERRORS: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

logger = logging.getLogger("oxidicom.outbox")


class Refusal(msgspec.Struct, frozen=True):
    """The answer of the receiving side that it will never accept an entry."""

    reason: str
    """A text for an operator, without patient data."""
    at: float
    """Time of the refusal, in seconds since the epoch."""
    attempts: int = 1
    """Number of delivery attempts since the start of the run, the refused one included."""


class OutboxEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """A registration with what the outbox stores beside it."""

    registration: Registration
    task_id: str
    """A UUID, the same for every attempt to deliver this entry."""
    written_at: float
    """Time of writing, in seconds since the epoch; the newer of two entries of a series counts."""
    refusal: Refusal | None = None
    """The latest refusal; None if there was none. A pending entry with a refusal was requeued."""

    @property
    def name(self) -> str:
        """The name of the entry's file, without its suffix."""
        return entry_name(self.registration.series.key)


_decoder: Final = msgspec.json.Decoder(OutboxEntry)


def decode(name: str, data: bytes) -> OutboxEntry:
    """Return the entry in `data`, the contents of a file whose name without suffix is `name`.

    Raises ValueError if the data is invalid or the name is not the entry's; its text does not quote
    the data.
    """
    entry = _decoder.decode(data)
    if entry.name != name:
        raise ValueError("its file has the name of another series' entry")
    return entry


def entry_name(key: SeriesKey) -> str:
    """Return the name of a series' entry, of 40 hexadecimal digits.

    It is a hash, because an AE title may contain any character.
    """
    return hashlib.sha256("\0".join(key).encode("utf-8", "surrogatepass")).hexdigest()[:40]


class OutboxScan(NamedTuple):
    """The result of one scan of the folder."""

    names: list[str]
    """Names of pending entries not yet known to this process, oldest first."""
    young_entries: bool
    """Whether entries were left out because they are too young; a later scan may return them."""


class OutboxCounts(NamedTuple):
    """Numbers of pending and refused entries, and the writing time of the oldest pending one."""

    pending: int
    refused: int
    oldest_at: float | None
    """When the oldest pending entry was written, in seconds since the epoch; None without one."""


class Outbox:
    """The outbox folder of one receiver, which other receivers may share.

    With `sync`, `put` and `refuse` fsync the entry and its folder before they return.
    """

    def __init__(self, folder: Path, *, sync: bool) -> None:
        self._folder = folder
        self._sync = sync
        self._replacing = threading.Lock()

    def put(self, entry: OutboxEntry) -> None:
        """Write the entry as pending; it replaces the pending entry of its series, if any.

        Raises OSError, or ValueError if the encoded entry is longer than MAX_SMALL_FILE.
        """
        with self._replacing:
            create_folder(self._folder, sync=self._sync)
            self._write(entry, PENDING_SUFFIX)

    def sweep(self) -> None:
        """Remove the temporary files of processes that died while writing. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            remove_stale_temporaries(self._folder)

    def names(self) -> list[str]:
        """Sweep, and return the names of all pending entries, oldest first. Raises OSError."""
        self.sweep()
        return self.scan(lambda _: False, grace_s=0.0).names

    def scan(
        self, is_known: Callable[[str], bool], *, grace_s: float = OUTBOX_ENTRY_GRACE_S
    ) -> OutboxScan:
        """Return the names of the pending entries for which `is_known` returns False.

        Entries younger than `grace_s` seconds are left out, because their writer may be delivering
        them. Requeued and corrupt entries are returned at any age. Raises OSError.
        """
        found: list[tuple[int, str]] = []
        young_entries = False
        youngest = time.time() - grace_s
        with contextlib.suppress(FileNotFoundError), os.scandir(self._folder) as entries:
            for entry in entries:
                file = entry.name
                if (
                    file[-_SUFFIX_LENGTH:] != PENDING_SUFFIX
                    or is_known(name := file[:-_SUFFIX_LENGTH])
                    or file[0] == "."
                ):
                    continue
                # The entry may have been delivered meanwhile.
                with contextlib.suppress(FileNotFoundError):
                    written = entry.stat(follow_symlinks=False).st_mtime_ns
                    if grace_s and written / 1e9 > youngest and not self._was_requeued(name):
                        young_entries = True
                    else:
                        found.append((written, name))
        return OutboxScan([name for _, name in sorted(found)], young_entries)

    def _was_requeued(self, name: str) -> bool:
        try:
            return decode(name, read_small(self._path(name))).refusal is not None
        except ValueError:
            return True  # corrupt: no receiver is delivering it, so it is found at once
        except OSError:
            return False

    def counts(self) -> OutboxCounts:
        """Return the numbers of entries in the folder; 0 if there is no folder. Raises OSError."""
        pending = refused = 0
        oldest: float | None = None
        with contextlib.suppress(FileNotFoundError), os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.endswith(REFUSED_SUFFIX):
                    refused += 1
                elif entry.name.endswith(PENDING_SUFFIX) and entry.name[0] != ".":
                    with contextlib.suppress(FileNotFoundError):
                        written = entry.stat(follow_symlinks=False).st_mtime
                        pending += 1
                        oldest = written if oldest is None else min(oldest, written)
        return OutboxCounts(pending, refused, oldest)

    def changed_at_ns(self) -> int:
        """Return the folder's modification time in nanoseconds, or 0 if there is no folder.

        On most file systems it changes when a file is added, renamed or removed. Raises OSError.
        """
        try:
            return os.stat(self._folder).st_mtime_ns
        except FileNotFoundError:
            return 0

    def read(self, name: str) -> OutboxEntry | None:
        """Return the pending entry `name`, or None if it is gone or corrupt. Raises OSError.

        A corrupt entry is renamed and logged.
        """
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
        """Yield the pending entries, oldest first, reading one at a time. Raises OSError."""
        for name in self.names():
            entry = self.read(name)
            if entry is not None:
                yield entry

    def depth(self) -> int:
        """Return the number of pending entries. Raises OSError."""
        return len(self.names())

    def remove(self, entry: OutboxEntry) -> bool:
        """Remove a confirmed entry, and older refused or claimed entries of its series.

        Return True if no pending entry of the series remains, False if a newer one, which stays,
        has replaced it. Raises OSError.
        """
        with self._replacing:
            # In the order in which a requeue moves an entry, so that none is missed.
            for suffix in (REFUSED_SUFFIX, CLAIMED_SUFFIX):
                self._remove_unless_newer(entry, suffix)
            if not self._still_holds(entry):
                return False
            remove_if_there(self._path(entry.name))
            return True

    def refuse(self, entry: OutboxEntry, reason: str, attempts: int = 1) -> bool:
        """Make a pending entry a refused one, with the reason, or without it on a full disk.

        `attempts` is the number of delivery attempts. Return True if that is done, False if a newer
        pending entry of the series, which stays, has replaced it. Raises OSError.
        """
        refused = msgspec.structs.replace(
            entry, refusal=Refusal(reason[:MAX_REFUSAL_CHARACTERS], time.time(), attempts)
        )
        with self._replacing:
            if not self._still_holds(entry):
                return False
            try:
                # In this order: after a crash in between the entry is still pending.
                self._write(refused, REFUSED_SUFFIX)
                remove_if_there(self._path(entry.name))
            except OSError as error:
                if error.errno not in _NO_SPACE_ERRORS:
                    raise
                self._path(entry.name).replace(self._path(entry.name, REFUSED_SUFFIX))
            return True

    def _write(self, entry: OutboxEntry, suffix: str) -> None:
        data = msgspec.json.encode(entry)
        if len(data) > MAX_SMALL_FILE:
            raise ValueError("longer than any outbox entry may be")
        write_atomically(self._folder, entry.name + suffix, data, sync=self._sync)

    def _remove_unless_newer(self, entry: OutboxEntry, suffix: str) -> None:
        try:
            other = decode(entry.name, read_small(self._path(entry.name, suffix)))
        except (OSError, ValueError):  # a file that cannot be read is left for the operator
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
            self._path(name).replace(self._path(name, CORRUPT_SUFFIX))

    def _path(self, name: str, suffix: str = PENDING_SUFFIX) -> Path:
        return self._folder / (name + suffix)


def new_entry(registration: Registration) -> OutboxEntry:
    """Return an entry for the registration, with a new task id and the current time."""
    return OutboxEntry(registration, str(uuid.uuid4()), time.time())
