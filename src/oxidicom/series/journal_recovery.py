"""Reads from the journal which series were open when a process died."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

from oxidicom.ports import SeriesInfo, SeriesKey
from oxidicom.series.journal import Journal, JournalFaults


class RecoveredSeries(NamedTuple):
    """A series that has journal entries."""

    series: SeriesInfo
    """The record of its oldest association, which named its folder (decision 26)."""
    associations: tuple[str, ...]
    """Associations that have carried it, oldest first."""


def recover(
    journal: Journal,
    faults: JournalFaults,
    accepts: Callable[[str], bool] = lambda writer: True,
    names: Collection[str] | None = None,
) -> list[RecoveredSeries]:
    """Return the series of the journal, oldest first.

    Only entries of writers that `accepts` returns True for are read and, if `names` is given, only
    those files. Raises OSError if the journal's folder cannot be listed; faults of single entries
    are added to `faults`.
    """
    found: dict[SeriesKey, tuple[SeriesInfo, list[str]]] = {}
    for entry in journal.entries(faults, names):
        if not accepts(entry.writer):
            continue
        _, associations = found.setdefault(entry.series.key, (entry.series, []))
        associations.append(entry.association_id)
    return [RecoveredSeries(series, tuple(associations)) for series, associations in found.values()]
