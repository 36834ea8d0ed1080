"""Registrations on disk until a broker has confirmed them (decision 35).

There is one file for each series, so that a newer registration replaces an older one in one rename
(decision 32). The methods block; `OutboxRelay` calls them on a thread of its own. What an operator
does with refused and corrupt entries is in `outbox_inspect`.
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
"""Seconds for which an entry of unknown origin is left to the receiver that wrote it."""

MAX_REFUSAL_CHARACTERS: Final = 2000

_SUFFIX_LENGTH: Final = len(PENDING_SUFFIX)
_NO_SPACE_ERRORS: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

logger = logging.getLogger("oxidicom.outbox")


class Refusal(msgspec.Struct, frozen=True):
    """Why the receiving side will never take an entry."""

    reason: str
    """A text for an operator, without patient data."""
    at: float
    """Time of the refusal, in seconds since the epoch."""
    attempts: int = 1
    """Number of deliveries since the entry was written or requeued, as far as that run knows."""


class OutboxEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """A registration on disk."""

    registration: Registration
    task_id: str
    """A UUID, the same for every attempt to deliver this entry."""
    written_at: float
    """Time of writing in seconds since the epoch; tells an older count from a newer one."""
    refusal: Refusal | None = None
    """The latest refusal; a pending entry that has one was requeued."""

    @property
    def name(self) -> str:
        """The name of the entry's file, without its suffix."""
        return entry_name(self.registration.series.key)


_decoder: Final = msgspec.json.Decoder(OutboxEntry)


def decode(name: str, data: bytes) -> OutboxEntry:
    """Return the entry `name`; raises ValueError, whose text quotes nothing of `data`."""
    entry = _decoder.decode(data)
    if entry.name != name:
        raise ValueError("it is another series' entry, under a name that is not its own")
    return entry


def entry_name(key: SeriesKey) -> str:
    """Return the name of a series' entry: a hash, because an AE title may hold any character."""
    return hashlib.sha256("\0".join(key).encode("utf-8", "surrogatepass")).hexdigest()[:40]


class OutboxScan(NamedTuple):
    """The result of one scan of the folder."""

    names: list[str]
    """Names of pending entries not yet known to this process, oldest first."""
    young_entries: bool
    """Whether there are others, so young that their writer may be delivering them: scan again."""


class OutboxCounts(NamedTuple):
    """The numbers of entries in the folder."""

    pending: int
    refused: int
    oldest_at: float | None
    """Time when the oldest pending entry was written, in seconds since the epoch."""


class Outbox:
    """The outbox folder of one receiver, which other receivers may share.

    With `sync`, every entry is fsynced, with its folder, before `put` returns.
    """

    def __init__(self, folder: Path, *, sync: bool) -> None:
        self._folder = folder
        self._sync = sync
        self._replacing = threading.Lock()

    def put(self, entry: OutboxEntry) -> None:
        """Write the entry, in place of an older one of its series.

        Raises OSError, or ValueError if the entry would be longer than any entry that is read.
        """
        with self._replacing:
            create_folder(self._folder, sync=self._sync)
            self._write(entry, PENDING_SUFFIX)

    def sweep(self) -> None:
        """Remove temporary files of writers that were killed. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            remove_stale_temporaries(self._folder)

    def names(self) -> list[str]:
        """Return the names of all pending entries, oldest first. Raises OSError."""
        self.sweep()
        return self.scan(lambda _: False, grace_s=0.0).names

    def scan(
        self, is_known: Callable[[str], bool], *, grace_s: float = OUTBOX_ENTRY_GRACE_S
    ) -> OutboxScan:
        """Return the pending entries that `is_known` does not know.

        Entries younger than `grace_s` are left to their writer, unless they were requeued. Of known
        entries only the name is read. Raises OSError.
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
                # The entry may be delivered or replaced meanwhile.
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
            return True  # no receiver writes such a file: any may set it aside
        except OSError:
            return False

    def counts(self) -> OutboxCounts:
        """Count the entries in the folder. Raises OSError."""
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
        """Return the folder's modification time in nanoseconds, 0 without a folder.

        It stays the same while no entry comes or goes. Raises OSError.
        """
        try:
            return os.stat(self._folder).st_mtime_ns
        except FileNotFoundError:
            return 0

    def read(self, name: str) -> OutboxEntry | None:
        """Return the pending entry, or None if it is gone. Raises OSError.

        A corrupt entry is set aside as such and counts as gone.
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
        """Yield the pending entries, oldest first; read one at a time. Raises OSError."""
        for name in self.names():
            entry = self.read(name)
            if entry is not None:
                yield entry

    def depth(self) -> int:
        """Return the number of pending entries. Raises OSError."""
        return len(self.names())

    def remove(self, entry: OutboxEntry) -> bool:
        """Remove a confirmed entry and what is older of its series, refused entries included.

        Return False if there is a newer entry of the series, which stays. Raises OSError.
        """
        with self._replacing:
            # In the order in which an operator's requeue moves the entry.
            for suffix in (REFUSED_SUFFIX, CLAIMED_SUFFIX):
                self._remove_unless_newer(entry, suffix)
            if not self._still_holds(entry):
                return False
            remove_if_there(self._path(entry.name))
            return True

    def refuse(self, entry: OutboxEntry, reason: str, attempts: int = 1) -> bool:
        """Keep the entry as a refused one, with the reason; on a full disk, without the reason.

        Return False if there is a newer entry of the series, which stays. Raises OSError.
        """
        refused = msgspec.structs.replace(
            entry, refusal=Refusal(reason[:MAX_REFUSAL_CHARACTERS], time.time(), attempts)
        )
        with self._replacing:
            if not self._still_holds(entry):
                return False
            try:
                # In this order: after a crash in between the entry is pending, and refused again.
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
        except (OSError, ValueError):  # what cannot be read is left to the operator
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
    """Return an entry with a new task id, written now."""
    return OutboxEntry(registration, str(uuid.uuid4()), time.time())
