"""Finds in the journal the series that were open when a process died."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

from oxidicom.ports import SeriesInfo, SeriesKey
from oxidicom.series.journal import Journal, JournalFaults


class RecoveredSeries(NamedTuple):
    """A series that has journal entries, and the associations that carried it."""

    series: SeriesInfo
    """The attributes in the entry of its oldest association, which determined its folder
    (decision 26)."""
    associations: tuple[str, ...]
    """Identifiers of the associations that have carried it, oldest first."""


def recover(
    journal: Journal,
    faults: JournalFaults,
    accepts: Callable[[str], bool] = lambda writer: True,
    names: Collection[str] | None = None,
) -> list[RecoveredSeries]:
    """Return the series that have journal entries, oldest first.

    An entry is ignored unless `accepts` returns True for its writer. If `names` is given, only
    these files of the journal are read. Faults of single files are added to `faults`. Raises
    OSError if the journal's folder cannot be listed.
    """
    found: dict[SeriesKey, tuple[SeriesInfo, list[str]]] = {}
    for entry in journal.entries(faults, names):
        if not accepts(entry.writer):
            continue
        _, associations = found.setdefault(entry.series.key, (entry.series, []))
        associations.append(entry.association_id)
    return [RecoveredSeries(series, tuple(associations)) for series, associations in found.values()]
