"""What people see and do in the outbox's folder, whether a receiver runs or not.

Only renames and links, no locks, so that it holds on NFS too; each step leaves what the next call,
or the receiver, goes on from.
"""

from __future__ import annotations

import contextlib
import errno
import os
from enum import Enum
from pathlib import Path
from typing import Final, NamedTuple

from oxidicom.filesystem import MAX_SMALL_FILE, read_small, remove_if_there, sync_folder
from oxidicom.notify.outbox_store import CLAIMED, CORRUPT, PENDING, REFUSED, OutboxEntry, decode

_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})
"""What file systems without hard links say."""

_CUT_SHORT: Final = "its way back was cut short: retry it again"
_READABLE: Final = "it can be read now: retry puts it back"


class EntryState(Enum):
    PENDING = "pending"
    REFUSED = "refused"
    CORRUPT = "corrupt"


_STATES: Final = {
    PENDING: EntryState.PENDING,
    REFUSED: EntryState.REFUSED,
    CLAIMED: EntryState.REFUSED,
    CORRUPT: EntryState.CORRUPT,
}


def state_of(path: Path) -> EntryState:
    """By its name alone."""
    return _STATES[path.suffix]


class Found(NamedTuple):
    """One file of the outbox."""

    path: Path
    state: EntryState
    entry: OutboxEntry | None
    """None if it cannot be read."""
    written_at: float
    """Seconds since the epoch; the file's own time if the entry cannot be read."""
    note: str | None
    """What is wrong with it, without a word of what it holds."""

    @property
    def name(self) -> str:
        return self.path.stem


class Outcome(Enum):
    """What became of an entry that was to be put back."""

    BACK = "pending again"
    PENDING = "is pending already"
    NEWER = "left: a newer registration of the series is pending"
    OLDER = "left: an older registration of the series is pending; retry once that is settled"
    GONE = "is gone meanwhile"
    CORRUPT = "cannot be put back"

    @property
    def well(self) -> bool:
        """Nobody need see to it again."""
        return self not in (Outcome.OLDER, Outcome.CORRUPT)


def paths(folder: Path, prefix: str = "") -> list[Path]:
    """Files whose name begins so, those written first first; none without a folder. Raises
    OSError."""
    found: list[tuple[int, str]] = []
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            name, suffix = os.path.splitext(entry.name)
            if suffix in _STATES and name.startswith(prefix) and not name.startswith("."):
                with contextlib.suppress(FileNotFoundError):
                    found.append((entry.stat(follow_symlinks=False).st_mtime_ns, entry.name))
    return [folder / name for _, name in sorted(found)]


def look_at(path: Path) -> Found | None:
    """None if it is gone, or is but the rest of a way back that succeeded."""
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
    if path.suffix == CLAIMED and entry is not None:
        if _holds(path.with_suffix(PENDING), entry):
            return None
        note = _CUT_SHORT
    elif path.suffix == CORRUPT and entry is not None:
        note = _READABLE
    if entry is None:
        state = EntryState.CORRUPT
    return Found(path, state, entry, written_at, note)


def put_back(path: Path, *, sync: bool) -> Outcome:
    """Make a refused entry pending, and a corrupt one that can be read by now.

    Never replaces what is pending. Raises OSError, after which it may be called again.
    """
    claimed, pending = path.with_suffix(CLAIMED), path.with_suffix(PENDING)
    try:
        entry = _read(path)
    except FileNotFoundError:
        return Outcome.GONE
    except ValueError:
        return Outcome.CORRUPT
    if path == pending:
        return Outcome.PENDING
    entry = _claim(path, entry, claimed)
    try:
        _link(claimed, pending)
    except FileNotFoundError:
        return Outcome.GONE
    except FileExistsError:
        if not _holds(pending, entry):  # which it does if somebody died after the link
            return _give_up(entry, claimed, pending, sync)
    if sync:
        sync_folder(path.parent)
    remove_if_there(claimed)
    return Outcome.BACK


def _claim(path: Path, entry: OutboxEntry, claimed: Path) -> OutboxEntry:
    """From here on no receiver writes to its name. Returns what is claimed, the newer one if
    somebody died with another of the series claimed."""
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
    """As a rename that fails with FileExistsError instead of replacing."""
    try:
        os.link(claimed, pending, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # Not in one step, where there is no such step.
        if pending.exists():
            raise FileExistsError from error
        claimed.rename(pending)


def _give_up(entry: OutboxEntry, claimed: Path, pending: Path, sync: bool) -> Outcome:
    outcome = Outcome.NEWER
    with contextlib.suppress(OSError, ValueError):
        if _read(pending).written_at < entry.written_at:
            outcome = Outcome.OLDER
    # One that was refused meanwhile is newer than this one.
    with contextlib.suppress(FileExistsError, FileNotFoundError):
        _link(claimed, claimed.with_suffix(REFUSED))
    if sync:
        sync_folder(claimed.parent)
    remove_if_there(claimed)
    return outcome


def _holds(path: Path, entry: OutboxEntry) -> bool:
    try:
        return _read(path).task_id == entry.task_id
    except (OSError, ValueError):
        return False


def _read(path: Path) -> OutboxEntry:
    """Raises OSError; ValueError, which says why it is no entry and quotes nothing of it."""
    data = read_small(path)
    if len(data) > MAX_SMALL_FILE:
        raise ValueError(f"it is longer than any entry: over {MAX_SMALL_FILE} bytes")
    if not data:
        raise ValueError("it is empty")
    return decode(path.stem, data)
