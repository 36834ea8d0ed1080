"""Lists and requeues outbox entries for the operator's commands, while a receiver runs or not.

Entries are moved by renames and links, without locks, so that this works on NFS too. After a crash
at any step the next call, or the receiver, can continue.
"""

from __future__ import annotations

import contextlib
import errno
import os
from enum import Enum
from pathlib import Path
from typing import Final, NamedTuple

from oxidicom.filesystem import MAX_SMALL_FILE, read_small, remove_if_there, sync_folder
from oxidicom.notify.outbox_store import (
    CLAIMED_SUFFIX,
    CORRUPT_SUFFIX,
    PENDING_SUFFIX,
    REFUSED_SUFFIX,
    OutboxEntry,
    decode,
)

_NO_LINK_ERRORS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})
"""Errors by which file systems refuse a hard link."""

_INTERRUPTED: Final = "its retry was interrupted: retry it again"
_READABLE: Final = "it can be read now: retry requeues it"


class EntryState(Enum):
    """The state of an outbox entry; the values are those that commands show."""

    PENDING = "pending"
    REFUSED = "refused"
    CORRUPT = "corrupt"


_STATES: Final = {
    PENDING_SUFFIX: EntryState.PENDING,
    REFUSED_SUFFIX: EntryState.REFUSED,
    CLAIMED_SUFFIX: EntryState.REFUSED,
    CORRUPT_SUFFIX: EntryState.CORRUPT,
}


def state_of(path: Path) -> EntryState:
    """Return the state for the suffix of an outbox file. Raises KeyError for another suffix."""
    return _STATES[path.suffix]


class OutboxFile(NamedTuple):
    """One file of the outbox, and the entry in it."""

    path: Path
    state: EntryState
    entry: OutboxEntry | None
    """The entry in the file; None if it cannot be read."""
    written_at: float
    """When the entry was written, in seconds since the epoch. If it cannot be read, this is the
    file's modification time, or 0.0 if that is unknown, too."""
    note: str | None
    """What the operator should know of the file, without quoting its contents; None if nothing."""

    @property
    def name(self) -> str:
        """The name of the entry: that of the file without its suffix."""
        return self.path.stem


class RequeueOutcome(Enum):
    """The result of requeueing an entry; the values are those that commands show."""

    BACK = "pending again"
    PENDING = "is pending already"
    NEWER = "left: a newer registration of the series is pending"
    OLDER = "left: an older registration of the series is pending; retry once it has left"
    GONE = "is gone meanwhile"
    CORRUPT = "cannot be put back"

    @property
    def succeeded(self) -> bool:
        """Whether the entry needs no further requeue; False if the operator has to try again."""
        return self not in (RequeueOutcome.OLDER, RequeueOutcome.CORRUPT)


def entry_files(folder: Path, prefix: str = "") -> list[Path]:
    """Return the outbox files whose names begin with `prefix`, oldest first.

    They are in the order of their modification times. The list is empty if there is no folder.
    Raises OSError.
    """
    found: list[tuple[int, str]] = []
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            name, suffix = os.path.splitext(entry.name)
            if suffix in _STATES and name.startswith(prefix) and not name.startswith("."):
                with contextlib.suppress(FileNotFoundError):
                    found.append((entry.stat(follow_symlinks=False).st_mtime_ns, entry.name))
    return [folder / name for _, name in sorted(found)]


def inspect(path: Path) -> OutboxFile | None:
    """Return the state of the file and the entry in it.

    Return None if the file is gone, or was left behind by a requeue that succeeded. Never raises
    OSError; an error is described in `note`.
    """
    state = state_of(path)
    entry = note = None
    written_at = 0.0
    try:
        written_at = path.stat(follow_symlinks=False).st_mtime
        entry = _read(path)
        written_at = entry.written_at
    except FileNotFoundError:
        return None
    except OSError as error:
        note = f"cannot be read: {error.strerror}"
    except ValueError as error:
        note = str(error)
    if path.suffix == CLAIMED_SUFFIX and entry is not None:
        if _holds(path.with_suffix(PENDING_SUFFIX), entry):
            return None
        note = _INTERRUPTED
    elif path.suffix == CORRUPT_SUFFIX and entry is not None:
        note = _READABLE
    if entry is None:
        state = EntryState.CORRUPT
    return OutboxFile(path, state, entry, written_at, note)


def requeue(path: Path, *, sync: bool) -> RequeueOutcome:
    """Make a refused entry pending again, or a corrupt one that has become readable.

    A pending entry of the series is never replaced. With `sync`, the folder is fsynced before the
    call returns. Raises OSError, after which the call may be repeated.
    """
    claimed, pending = path.with_suffix(CLAIMED_SUFFIX), path.with_suffix(PENDING_SUFFIX)
    try:
        entry = _read(path)
    except FileNotFoundError:
        return RequeueOutcome.GONE
    except ValueError:
        return RequeueOutcome.CORRUPT
    if path == pending:
        return RequeueOutcome.PENDING
    entry = _claim(path, entry, claimed)
    try:
        _link(claimed, pending)
    except FileNotFoundError:
        return RequeueOutcome.GONE
    except FileExistsError:
        if not _holds(pending, entry):  # it does if an earlier call crashed after the link
            return _undo_claim(entry, claimed, pending, sync)
    if sync:
        sync_folder(path.parent)
    remove_if_there(claimed)
    return RequeueOutcome.BACK


def _claim(path: Path, entry: OutboxEntry, claimed: Path) -> OutboxEntry:
    """Rename the file to `claimed`, to which no receiver writes, and return the claimed entry.

    If an earlier call crashed, a newer entry of the series may be claimed already; then that one is
    returned. Raises OSError.
    """
    if path == claimed:
        return entry
    with contextlib.suppress(FileNotFoundError, ValueError):
        other = _read(claimed)
        if other.written_at > entry.written_at:
            return other
    with contextlib.suppress(FileNotFoundError):
        path.rename(claimed)
    return entry


def _link(claimed: Path, pending: Path) -> None:
    """Give the entry its second name `pending`, or rename it where there are no hard links.

    Raises FileExistsError if `pending` exists, FileNotFoundError if `claimed` does not, and other
    OSErrors.
    """
    try:
        os.link(claimed, pending, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINK_ERRORS:
            raise
        # Not atomic: such file systems have no atomic operation that does not replace.
        if pending.exists():
            raise FileExistsError from error
        claimed.rename(pending)


def _undo_claim(entry: OutboxEntry, claimed: Path, pending: Path, sync: bool) -> RequeueOutcome:
    """Make the claimed entry a refused one again, beside the pending one of its series.

    Return NEWER or OLDER, depending on the age of the pending entry. Raises OSError.
    """
    outcome = RequeueOutcome.NEWER
    with contextlib.suppress(OSError, ValueError):
        if _read(pending).written_at < entry.written_at:
            outcome = RequeueOutcome.OLDER
    # If an entry was refused meanwhile, it is newer than this one, which is removed.
    with contextlib.suppress(FileExistsError, FileNotFoundError):
        _link(claimed, claimed.with_suffix(REFUSED_SUFFIX))
    if sync:
        sync_folder(claimed.parent)
    remove_if_there(claimed)
    return outcome


def _holds(path: Path, entry: OutboxEntry) -> bool:
    """Return whether the file contains the entry with this task id; False if it cannot be read."""
    try:
        return _read(path).task_id == entry.task_id
    except (OSError, ValueError):
        return False


def _read(path: Path) -> OutboxEntry:
    """Return the entry in the file.

    Raises OSError, or ValueError if the entry is invalid; its text does not quote the file.
    """
    data = read_small(path)
    if len(data) > MAX_SMALL_FILE:
        raise ValueError(f"it is longer than any entry: over {MAX_SMALL_FILE} bytes")
    if not data:
        raise ValueError("it is empty")
    return decode(path.stem, data)
