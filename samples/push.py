"""Push a built study set from Orthanc, and count what arrived."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from samples.folder import BuiltSeries
from samples.mover import MoveError, move
from samples.orthanc import MOVE_AE_TITLE, STORE_AE_TITLE, TIMEOUT, Orthanc, OrthancError
from samples.receiver import Destination, Standing, found_on_disk, standing_on_disk

Send = Callable[[Orthanc, Destination, BuiltSeries], int]
"""A function that sends a series and returns how many instances failed."""


class Way(NamedTuple):
    name: str
    calling_ae_title: str
    send: Send


class Pushed(NamedTuple):
    series: BuiltSeries
    way: Way
    seconds: float
    failed: int
    """Number of instances that the receiver did not acknowledge."""
    found: int | None
    """Number of instances on the receiver's disk; None where that cannot be seen."""
    reason: str = ""

    @property
    def complete(self) -> bool:
        return not self.failed and self.found in (None, len(self.series.instances))


def _store(orthanc: Orthanc, _: Destination, series: BuiltSeries) -> int:
    return orthanc.store(series.series_instance_uid)


def _move(orthanc: Orthanc, destination: Destination, series: BuiltSeries) -> int:
    return move(
        *(orthanc.dicom_port, MOVE_AE_TITLE, destination.ae_title),
        *(series.study_instance_uid, series.series_instance_uid, TIMEOUT),
    )


WAYS = {
    "store": Way("C-STORE", STORE_AE_TITLE, _store),
    "move": Way("C-MOVE", MOVE_AE_TITLE, _move),
}


def load(orthanc: Orthanc, folder: Path, built: Iterable[BuiltSeries]) -> None:
    for series in built:
        for instance in series.instances:
            orthanc.load(folder / instance.path)


def push(
    orthanc: Orthanc, destination: Destination, series: BuiltSeries, way: Way
) -> tuple[float, int, str]:
    """Return seconds, the number of instances that failed, and the reason if it is known."""
    begun = time.monotonic()
    try:
        failed, reason = way.send(orthanc, destination, series), ""
    except (OrthancError, MoveError) as error:
        failed, reason = len(series.instances), str(error)
    return time.monotonic() - begun, failed, reason


def push_all(
    orthanc: Orthanc,
    destination: Destination,
    folder: Path,
    built: list[BuiltSeries],
    ways: Iterable[Way],
    root: Path | None,
) -> Iterator[Pushed]:
    """Push one series after another, in one way after another. What each series left below `root`
    is counted at once, since acknowledged means stored."""
    orthanc.send_to(destination)
    for way in ways:
        for series in built:
            before = standing_on_disk(root, way.calling_ae_title) if root else Standing()
            seconds, failed, reason = push(orthanc, destination, series, way)
            found = None
            if root is not None:
                now = standing_on_disk(root, way.calling_ae_title)
                sent = ((one.sop_instance_uid, folder / one.path) for one in series.instances)
                found = found_on_disk(before, now, sent)
            yield Pushed(series, way, seconds, failed, found, reason)
