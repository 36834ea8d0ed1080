"""Crash memory: which associations have carried which series that are not registered yet.

One small file for each pair, so that workers and replicas on one shared folder never write the
same file, and the end of one reception never removes an entry of the next.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Final

import msgspec

from oxidicom import filesystem
from oxidicom.ports import SeriesInfo, SeriesKey

_SET_ASIDE: Final = ".bad"
_NOT_A_FILE: Final = frozenset({errno.EISDIR, errno.ELOOP, errno.ENXIO})
"""What opening a folder, a link or a socket says."""


class JournalEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    association_id: str
    series: SeriesInfo
    writer: str = ""
    """Which of several receiving processes made it."""


@dataclass(slots=True)
class Faults:
    """What a look at the journal met, without patient data."""

    useless: list[str] = field(default_factory=list)
    """A line for each file that is no entry."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Why: perhaps it can be read later."""


class Journal:
    """A folder of entries, made if it is not there; nothing of it is kept in memory.

    With `sync` an entry survives the death of the machine, otherwise that of the process.
    Any number of processes may use one folder; entries are marked with `writer`.
    """

    def __init__(self, folder: Path, sync: bool, writer: str = "") -> None:
        """Raises OSError."""
        self._folder = folder
        self._sync = sync
        self._writer = writer
        self._encoder = msgspec.json.Encoder()
        self._decoder = msgspec.json.Decoder(JournalEntry)
        filesystem.create_folder(folder, sync=sync)

    def enter(self, association_id: str, series: SeriesInfo) -> None:
        """Return once the entry is on disk; entering twice is entering once. Raises OSError."""
        name = _name(association_id, series.key)
        data = self._encoder.encode(JournalEntry(association_id, series, self._writer))
        try:
            filesystem.write_atomically(self._folder, name, data, sync=self._sync)
        except FileNotFoundError:  # somebody cleaned up: no reason to refuse images from now on
            filesystem.create_folder(self._folder, sync=self._sync)
            filesystem.write_atomically(self._folder, name, data, sync=self._sync)

    def remove(self, key: SeriesKey, associations: Iterable[str]) -> None:
        """Forget these entries, if they are there; raises OSError.

        Never synced: an entry that a power cut brings back leads to a second registration of the
        same count at worst, and registrations are promised at least once.
        """
        for association_id in associations:
            filesystem.remove_if_there(os.path.join(self._folder, _name(association_id, key)))

    def entries(
        self, faults: Faults, names: Collection[str] | None = None
    ) -> Iterator[JournalEntry]:
        """All entries, or those of `names`, oldest association first; raises OSError if the folder
        cannot be listed.

        What is no entry is renamed to `*.bad`, where it is not looked at again.
        """
        if names is None:
            filesystem.remove_stale_temporaries(self._folder)
            names = filesystem.names(self._folder)
        for name in names:
            if name.endswith(_SET_ASIDE):
                continue
            try:
                entry = self._read(name)
                if entry is None:
                    os.rename(self._folder / name, self._folder / (name + _SET_ASIDE))
                    faults.useless.append(f"{name} is not an entry; renamed to *{_SET_ASIDE}")
                    continue
            except FileNotFoundError:  # its series has just been completed by a replica
                continue
            except OSError as error:
                faults.unreadable[name] = error.strerror or str(error.errno)
                continue
            yield entry

    def _read(self, name: str) -> JournalEntry | None:
        """None for what `enter` has not written under this name; raises OSError."""
        try:
            entry = self._decoder.decode(filesystem.read_small(self._folder / name))
            return entry if _name(entry.association_id, entry.series.key) == name else None
        except OSError as error:
            if error.errno in _NOT_A_FILE:
                return None
            raise
        except ValueError:  # msgspec's errors and UnicodeError are ValueErrors
            return None


def _name(association_id: str, key: SeriesKey) -> str:
    """The ULID comes first, so that names sort by age; a UID may hold anything, hence the hash."""
    text = "\0".join(key).encode("utf-8", "surrogatepass")
    return f"{association_id}-{blake2b(text, digest_size=16).hexdigest()}.json"
