"""One trial: one receiver, one scenario, from an empty folder to counted files."""

from __future__ import annotations

import itertools
import mmap
import shutil
from pathlib import Path
from typing import NamedTuple

import msgspec

from benchmarks.receivers import Receiver, Running, StartError
from benchmarks.sender import Load, Senders, Work

WARM_UP = 20
"""Instances sent beforehand, in a series of their own: what is loaded late is loaded then."""


class Scenario(NamedTuple):
    name: str
    senders: int
    size: int
    """Bytes of one data set."""
    instances: int
    """Of each sender."""


FULL = (
    Scenario("1 sender, 512 KiB", 1, 512 * 1024, 2000),
    Scenario("1 sender, 20 KiB", 1, 20 * 1024, 10000),
    Scenario("8 senders, 20 KiB", 8, 20 * 1024, 2500),
)
QUICK = tuple(scenario._replace(instances=scenario.instances // 5) for scenario in FULL)


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it; `errors` is empty only if every instance was acknowledged and is there."""

    receiver: str
    scenario: str
    instances: int
    """Sent and acknowledged, without the warm-up."""
    data_set_bytes: int
    seconds: float
    cpu_seconds: float
    peak_resident_bytes: int
    errors: list[str]

    @property
    def instances_per_second(self) -> float:
        return self.instances / self.seconds if self.seconds else 0.0


def run_trial(receiver: Receiver, scenario: Scenario, root: Path) -> Trial:
    """Everything is stored below `root`, which should be a tmpfs, and removed again."""
    folder = root / receiver.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    count = max(WARM_UP, round(scenario.instances * receiver.share))
    works = [Work(1 + n, count, scenario.size) for n in range(scenario.senders)]
    touch_memory(count * scenario.senders * (scenario.size + 4096) + (256 << 20))
    cpu, resident, load = 0.0, 0, Load(0.0, 0, [])
    try:
        with Running(receiver, folder, root / f"{receiver.name}.log") as running:
            with Senders(running.port, [Work(0, WARM_UP, scenario.size)]) as senders:
                warm = senders.send()
            with Senders(running.port, works) as senders:
                before = running.cpu_seconds()
                load = senders.send()
                cpu = running.cpu_seconds() - before
                resident = running.peak_resident_bytes()
        expected = WARM_UP + count * scenario.senders
        errors = [*warm.errors, *load.errors]
        errors += missing_files(folder / receiver.stores_in, expected, scenario.size)
    except StartError as error:
        errors = [f"did not start: {error}"]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Trial(
        receiver=receiver.name,
        scenario=scenario.name,
        instances=load.stored,
        data_set_bytes=scenario.size,
        seconds=load.seconds,
        cpu_seconds=cpu,
        peak_resident_bytes=resident,
        errors=errors,
    )


def missing_files(folder: Path, expected: int, size: int) -> list[str]:
    """Why the files below `folder` are not those that were acknowledged; a file shorter than its
    data set is none."""
    whole = sum(path.is_file() and path.stat().st_size > size for path in folder.rglob("*"))
    return [] if whole == expected else [f"{whole} whole files of {expected} instances"]


def touch_memory(size: int) -> None:
    """Let the machine hold `size` bytes that the page cache can have at once: a virtual machine's
    first touch of a page costs microseconds, which is nobody's merit."""
    block = 64 << 20
    held = []
    for _ in itertools.repeat(None, -(-size // block)):
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
        held.append(mmap.mmap(-1, block, flags=flags))
    for area in held:
        area.close()
