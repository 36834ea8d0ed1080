"""After a crash: which series were open, and how many instances of them stand on disk."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

from oxidicom.ports import SeriesInfo, SeriesKey
from oxidicom.series.journal import Faults, Journal


class RecoveredSeries(NamedTuple):
    series: SeriesInfo
    """As its oldest association said, because its folder stands since then (decision 26)."""
    associations: tuple[str, ...]
    """Oldest first."""


def recover(
    journal: Journal,
    faults: Faults,
    accepts: Callable[[str], bool] = lambda writer: True,
    names: Collection[str] | None = None,
) -> list[RecoveredSeries]:
    """The series that others left open, oldest first; only what a writer left that is accepted, and
    only of the entries `names`, if given.

    Raises OSError only if the journal's folder cannot be listed.
    """
    found: dict[SeriesKey, tuple[SeriesInfo, list[str]]] = {}
    for entry in journal.entries(faults, names):
        if not accepts(entry.writer):
            continue
        _, associations = found.setdefault(entry.series.key, (entry.series, []))
        associations.append(entry.association_id)
    return [RecoveredSeries(series, tuple(associations)) for series, associations in found.values()]
