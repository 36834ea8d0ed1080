"""After a crash: which series were open, and how many instances of them stand on disk."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final, NamedTuple

from oxidicom.filesystem import close_folder
from oxidicom.ports import SeriesInfo, SeriesKey
from oxidicom.series.journal import Faults, Journal

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY
_NO_FOLDER: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
"""What opening says of a missing folder, a file, a link."""


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


def count_instances(files_root: Path, series: SeriesInfo) -> int:
    """How many `.dcm` files CUBE will find in the series' folder (decision 29).

    0 if there is no such folder. Links are neither followed below the root nor counted.
    Raises OSError for anything that keeps us from knowing, a missing root included.
    """
    components = series.path.split("/")
    if not all(map(_is_name, components)):
        return 0
    root = os.open(files_root, _FOLDER)
    try:
        descriptor = _open_below(root, components)
    except OSError as error:
        if error.errno in _NO_FOLDER:
            return 0
        raise
    try:
        with os.scandir(descriptor) as entries:
            return sum(
                entry.name.endswith(".dcm") and entry.is_file(follow_symlinks=False)
                for entry in entries
            )
    finally:
        close_folder(descriptor)


def _is_name(component: str) -> bool:
    return component not in ("", ".", "..") and "\0" not in component


def _open_below(folder: int, components: list[str]) -> int:
    """Step by step, because O_NOFOLLOW concerns the last component only. Closes `folder`."""
    for component in components:
        try:
            below = os.open(component, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
        finally:
            close_folder(folder)
        folder = below
    return folder
