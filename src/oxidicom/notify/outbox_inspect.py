"""What an operator sees and does in the outbox folder, whether a receiver runs or not.

Only renames and links are used, no locks, so that it works on NFS too. After a crash at any step
the next call, or the receiver, can continue.
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
"""Errors of file systems without hard links."""

_INTERRUPTED: Final = "its retry was interrupted: retry it again"
_READABLE: Final = "it can be read now: retry requeues it"


class EntryState(Enum):
    """The state of an outbox entry, as commands show it."""

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
    """Return the state that the file's suffix tells."""
    return _STATES[path.suffix]


class OutboxFile(NamedTuple):
    """One file of the outbox, and what is in it."""

    path: Path
    state: EntryState
    entry: OutboxEntry | None
    """None if it cannot be read."""
    written_at: float
    """Seconds since the epoch; the file's modification time if the entry cannot be read."""
    note: str | None
    """What is wrong with the file, without anything of its contents."""

    @property
    def name(self) -> str:
        """The name of the entry: that of the file without its suffix."""
        return self.path.stem


class RequeueOutcome(Enum):
    """The result of requeueing an entry, as commands show it."""

    BACK = "pending again"
    PENDING = "is pending already"
    NEWER = "left: a newer registration of the series is pending"
    OLDER = "left: an older registration of the series is pending; retry once it has left"
    GONE = "is gone meanwhile"
    CORRUPT = "cannot be put back"

    @property
    def succeeded(self) -> bool:
        """Whether the operator need not requeue the entry again."""
        return self not in (RequeueOutcome.OLDER, RequeueOutcome.CORRUPT)


def entry_files(folder: Path, prefix: str = "") -> list[Path]:
    """Return the outbox files whose name begins with `prefix`, oldest first.

    The list is empty without a folder. Raises OSError.
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
    """Return what is in the file; None if it is gone, or left over from a finished requeue."""
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
    """Make a refused entry pending, or a corrupt one that has become readable.

    A pending entry is never replaced. Raises OSError, after which the call may be repeated.
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
        if not _holds(pending, entry):  # it does after a crash that followed the link
            return _undo_claim(entry, claimed, pending, sync)
    if sync:
        sync_folder(path.parent)
    remove_if_there(claimed)
    return RequeueOutcome.BACK


def _claim(path: Path, entry: OutboxEntry, claimed: Path) -> OutboxEntry:
    """Rename the entry to a name that no receiver writes to, and return the claimed entry.

    After a crash a newer entry of the series may be claimed already; then that one is returned.
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
    """Rename without replacing: raises FileExistsError if `pending` exists."""
    try:
        os.link(claimed, pending, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINK_ERRORS:
            raise
        # Not atomic: such a file system has no atomic operation for it.
        if pending.exists():
            raise FileExistsError from error
        claimed.rename(pending)


def _undo_claim(entry: OutboxEntry, claimed: Path, pending: Path, sync: bool) -> RequeueOutcome:
    """Make the claimed entry a refused one again, beside the pending one of its series."""
    outcome = RequeueOutcome.NEWER
    with contextlib.suppress(OSError, ValueError):
        if _read(pending).written_at < entry.written_at:
            outcome = RequeueOutcome.OLDER
    # An entry that was refused meanwhile is newer than this one, and stays.
    with contextlib.suppress(FileExistsError, FileNotFoundError):
        _link(claimed, claimed.with_suffix(REFUSED_SUFFIX))
    if sync:
        sync_folder(claimed.parent)
    remove_if_there(claimed)
    return outcome


def _holds(path: Path, entry: OutboxEntry) -> bool:
    """Return whether the file holds this very entry."""
    try:
        return _read(path).task_id == entry.task_id
    except (OSError, ValueError):
        return False


def _read(path: Path) -> OutboxEntry:
    """Return the entry; raises OSError, or ValueError, whose text quotes nothing of the file."""
    data = read_small(path)
    if len(data) > MAX_SMALL_FILE:
        raise ValueError(f"it is longer than any entry: over {MAX_SMALL_FILE} bytes")
    if not data:
        raise ValueError("it is empty")
    return decode(path.stem, data)
