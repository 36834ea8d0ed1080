"""The journal records which associations have carried series that are not registered yet.

It survives crashes. Each pair of association and series has one small file, so that workers and
receivers that share a state folder never write the same file, and the end of one session of a
series never removes an entry of the next one.
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

_INVALID_SUFFIX: Final = ".bad"
_NOT_A_FILE: Final = frozenset({errno.EISDIR, errno.ELOOP, errno.ENXIO})
"""Errors of opening a folder, a link or a socket as a file."""


class JournalEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """The contents of one file of the journal."""

    association_id: str
    series: SeriesInfo
    writer: str = ""
    """Name of the receiving process that wrote the entry; empty if the journal was given none."""


@dataclass(slots=True)
class JournalFaults:
    """The faults of single files that `Journal.entries` found; the texts contain no patient
    data."""

    invalid: list[str] = field(default_factory=list)
    """One line of text for each file that was not an entry and has been renamed."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """The reason why a file could not be read, by file name. A later attempt may succeed."""


class Journal:
    """A folder of journal entries, of which no copy is kept in memory.

    With `sync` an entry survives a power failure; without, only the death of the process. Any
    number of processes may use one folder. New entries contain `writer`.
    """

    def __init__(self, folder: Path, sync: bool, writer: str = "") -> None:
        """Make the folder if it is missing. Raises OSError."""
        self._folder = folder
        self._sync = sync
        self._writer = writer
        self._encoder = msgspec.json.Encoder()
        self._decoder = msgspec.json.Decoder(JournalEntry)
        filesystem.create_folder(folder, sync=sync)

    def enter(self, association_id: str, series: SeriesInfo) -> None:
        """Write the entry of an association and a series; an existing one is replaced.

        With `sync` it is on the device when this returns. Raises OSError.
        """
        name = _name(association_id, series.key)
        data = self._encoder.encode(JournalEntry(association_id, series, self._writer))
        try:
            filesystem.write_atomically(self._folder, name, data, sync=self._sync)
        except FileNotFoundError:  # the folder was removed, which is no reason to refuse instances
            filesystem.create_folder(self._folder, sync=self._sync)
            filesystem.write_atomically(self._folder, name, data, sync=self._sync)

    def remove(self, key: SeriesKey, associations: Iterable[str]) -> None:
        """Remove the entries of `associations` for a series, where they exist. Raises OSError.

        The removal is never synced: an entry that reappears after a power failure leads at worst to
        a second registration of the same count, and registrations are delivered at least once.
        """
        for association_id in associations:
            filesystem.remove_if_there(os.path.join(self._folder, _name(association_id, key)))

    def entries(
        self, faults: JournalFaults, names: Collection[str] | None = None
    ) -> Iterator[JournalEntry]:
        """Yield the entries in the files `names`, in that order.

        If `names` is None, yields all entries, oldest association first, and removes temporary
        files of dead processes. A file that is not an entry is renamed to `*.bad` and ignored from
        then on. Faults of single files are added to `faults`. Raises OSError if the folder cannot
        be listed.
        """
        if names is None:
            filesystem.remove_stale_temporaries(self._folder)
            names = filesystem.names(self._folder)
        for name in names:
            if name.endswith(_INVALID_SUFFIX):
                continue
            try:
                entry = self._read(name)
                if entry is None:
                    os.rename(self._folder / name, self._folder / (name + _INVALID_SUFFIX))
                    faults.invalid.append(f"{name} is not an entry; renamed to *{_INVALID_SUFFIX}")
                    continue
            except FileNotFoundError:  # another receiver has just registered its series
                continue
            except OSError as error:
                faults.unreadable[name] = error.strerror or str(error.errno)
                continue
            yield entry

    def _read(self, name: str) -> JournalEntry | None:
        """Return the entry in the file `name`; None if it is no entry, or one with another name.

        Raises OSError if the file cannot be read.
        """
        try:
            entry = self._decoder.decode(filesystem.read_small(self._folder / name))
            return entry if _name(entry.association_id, entry.series.key) == name else None
        except OSError as error:
            if error.errno in _NOT_A_FILE:
                return None
            raise
        except ValueError:  # includes msgspec's errors and UnicodeError
            return None


def _name(association_id: str, key: SeriesKey) -> str:
    """Return the file name of an entry.

    The association's ULID comes first, so that names sort by age. The series is hashed, because its
    UID may contain any characters.
    """
    text = "\0".join(key).encode("utf-8", "surrogatepass")
    return f"{association_id}-{blake2b(text, digest_size=16).hexdigest()}.json"
