"""One trial: one receiver, one row, from an empty folder to counted files."""

from __future__ import annotations

import itertools
import mmap
import shutil
from contextlib import ExitStack
from pathlib import Path

import msgspec

from benchmarks.association import IdleAssociations, SendError
from benchmarks.figures import Latency, latency_of
from benchmarks.processes import Running, StartError, free_port
from benchmarks.receivers import Place, Receiver
from benchmarks.rows import Effort, Row, other_contexts
from benchmarks.sender import Load, Senders, Work
from benchmarks.timetable import timetables

WARM_UP = 20
"""Instances sent beforehand, in a series of their own, so that the receiver has loaded
everything."""

WARM_UP_SIZE = 1 << 20
"""Greatest number of bytes of a warm-up instance."""

MOST_PER_SECOND = 30_000
"""Instances a second that no receiver here reaches: more need not be encoded."""

FILE_OVERHEAD = 4096
"""Bytes by which a file may be longer than its data set, header and unused end of a page
included."""


SPARE = 128 << 20
"""Bytes for the receiver and the senders themselves."""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a trial. `errors` is empty only if every instance was acknowledged and is on
    disk."""

    receiver: str
    row: str
    instances: int
    """Instances sent and acknowledged, without the warm-up."""
    data_set_bytes: int
    seconds: float
    cpu_seconds: float
    peak_resident_bytes: int
    fragment_bytes: int
    """Bytes of the longest P-DATA-TF that was sent."""
    offered_per_second: float | None = None
    """Instances a second that an open loop offered."""
    latency: Latency | None = None
    errors: list[str] = []
    skipped: str = ""
    """Why the trial was not run, though nothing is wrong."""

    @property
    def instances_per_second(self) -> float:
        return self.instances / self.seconds if self.seconds else 0.0


def run_trial(
    receiver: Receiver, row: Row, effort: Effort, root: Path, closed_loop: float = 0.0
) -> Trial:
    """Run one trial. Everything is stored below `root`, which should be a tmpfs, and removed again.

    `closed_loop` is the receiver's speed of which an open-loop row offers a share.
    """
    skipped = why_not(receiver, row, root, closed_loop)
    if skipped:
        return _trial(receiver, row, Load(0.0, [], [], 0), skipped=skipped)
    offered = row.share * closed_loop if row.share_of else None
    works = works_of(row, effort, offered)
    warm_up = Work(0, WARM_UP, min(row.size, WARM_UP_SIZE), transfer_syntax=row.transfer_syntax)
    room = sum(work.instances * (work.size + FILE_OVERHEAD) for work in works)
    touch_memory(room + SPARE)
    folder, state = root / "stored", root / "state"
    for empty in (folder, state):
        shutil.rmtree(empty, ignore_errors=True)
        empty.mkdir(parents=True)
    place = Place(free_port(), folder, state, row.max_pdu, row.associations > 1)
    cpu, resident, load = 0.0, 0, Load(0.0, [], [], 0)
    try:
        running = Running(
            receiver.command(place),
            receiver.environment(place),
            place.port,
            root / "output.log",
            receiver.stop_signal,
        )
        with running, ExitStack() as beside:
            with Senders(place.port, [warm_up]) as senders:
                warm = senders.send()
            if row.idle:
                beside.enter_context(IdleAssociations(place.port, row.idle, row.transfer_syntax))
            with Senders(place.port, works) as senders:
                before = running.cpu_seconds()
                load = senders.send()
                cpu = running.cpu_seconds() - before
                resident = running.peak_resident_bytes()
        errors = [*warm.errors, *load.errors]
        expected = len(load.latencies) + len(warm.latencies) * (warm_up.size == row.size)
        errors += missing_files(folder / receiver.stores_in, expected, row.size)
    except StartError as error:
        errors = [f"did not start: {error}"]
    except SendError as error:
        errors = [str(error)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return _trial(receiver, row, load, cpu, resident, offered, errors)


def why_not(receiver: Receiver, row: Row, root: Path, closed_loop: float) -> str:
    """Return the limit of the receiver or of the machine that keeps a row from being run, or an
    empty text."""
    most = receiver.most_associations
    if most is not None and row.associations > most:
        return f"takes {most} associations at most"
    if row.share_of and not closed_loop:
        return "no closed loop to take a share of"
    if shutil.disk_usage(root).free < 2 * row.size * row.senders:
        return f"no room for it below {root}"
    return ""


def works_of(row: Row, effort: Effort, offered: float | None) -> list[Work]:
    """Return the work of each sender: no more than `effort` has bytes for."""
    count = min(
        row.instances,
        effort.stored_bytes // (row.size + FILE_OVERHEAD) // row.senders,
        round(MOST_PER_SECOND * effort.seconds) // row.senders,
    )
    plan = timetables(offered, row.senders) if offered else [None] * row.senders
    return [
        Work(
            series=1 + number,
            instances=max(1, count),
            size=row.size,
            seconds=effort.seconds,
            transfer_syntax=row.transfer_syntax,
            other_contexts=other_contexts(row.contexts - 1),
            association_each=row.association_each,
            nagle=row.nagle,
            timetable=timetable,
        )
        for number, timetable in enumerate(plan)
    ]


def _trial(
    receiver: Receiver,
    row: Row,
    load: Load,
    cpu_seconds: float = 0.0,
    peak_resident_bytes: int = 0,
    offered: float | None = None,
    errors: list[str] | None = None,
    skipped: str = "",
) -> Trial:
    return Trial(
        receiver=receiver.name,
        row=row.key,
        instances=len(load.latencies),
        data_set_bytes=row.size,
        seconds=load.seconds,
        cpu_seconds=cpu_seconds,
        peak_resident_bytes=peak_resident_bytes,
        fragment_bytes=load.fragment,
        offered_per_second=offered,
        latency=latency_of(load.latencies),
        errors=errors or [],
        skipped=skipped,
    )


def missing_files(folder: Path, expected: int, size: int) -> list[str]:
    """Return why the files below `folder` are not those that were acknowledged. A file that is no
    longer than its data set does not count, since it lacks its header."""
    whole = sum(path.is_file() and path.stat().st_size > size for path in folder.rglob("*"))
    return [] if whole == expected else [f"{whole} whole files of {expected} instances"]


def touch_memory(size: int) -> None:
    """Make the machine provide `size` bytes that the page cache can use at once: a virtual
    machine's first touch of a page costs microseconds, which would count against the first
    receiver."""
    block = 64 << 20
    held = []
    for _ in itertools.repeat(None, -(-size // block)):
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
        held.append(mmap.mmap(-1, block, flags=flags))
    for area in held:
        area.close()
