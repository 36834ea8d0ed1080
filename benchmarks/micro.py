"""Micro-benchmarks of oxidicom's compiled parsers: no sockets, no files, no event loop."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
from rich.console import Console
from rich.progress import track

from benchmarks.encoding import (
    COMMAND,
    CONTEXT_ID,
    EXPLICIT_VR_LITTLE_ENDIAN,
    LAST,
    associate_rq,
    p_data,
    store_rq,
)
from benchmarks.instances import data_set_head, element, encode_series, sop_instance_uid
from benchmarks.machine import Machine, this_machine
from benchmarks.pictures import COLOURS, Line, Panel, draw
from benchmarks.tables import Grid, markdown, number, rich_table
from oxidicom._dataset import EXPLICIT_LE, IMPLICIT_LE, Walker
from oxidicom._pdu import Framer, Violation

RECEIVED = 128 << 10
"""Bytes that are fed at a time, as received from a socket."""

REPEATS = 7
LONG_ENOUGH = 0.1
"""Least number of seconds of one repeat; the shortest repeat counts."""

OURS = COLOURS["oxidicom"]
INSTANCE = 4 << 20
PRIVATE_ELEMENTS = 1000
ITEMS = 300
CT_ELEMENTS = 23
"""Elements from the first to the one after InstanceNumber, at whose header the walker stops."""


class Case(NamedTuple):
    group: str
    name: str
    unit: str
    """Name of a unit such as `a PDU`; one pass has `units` of them."""
    units: int
    size: int
    """Bytes of one pass."""
    run: Callable[[], None]


class Result(msgspec.Struct, frozen=True):
    group: str
    name: str
    unit: str
    nanoseconds: float
    """Nanoseconds for one unit."""
    bytes_per_second: float


class MicroReport(msgspec.Struct, frozen=True):
    machine: Machine
    results: list[Result]


def cases() -> Iterator[Case]:
    for length, name in ((16 << 10, "16 KiB"), (128 << 10, "128 KiB")):
        series = encode_series(1, 1, INSTANCE, length, EXPLICIT_VR_LITTLE_ENDIAN)
        stream = series.stream(0)
        yield _framing(f"PDUs of {name}", "a PDU", -(-INSTANCE // (length - 6)) + 1, stream)
    count = (RECEIVED - 4096) // 8
    yield _framing("PDVs of 2 bytes in one PDU", "a PDV", count + 1, _tiny_pdvs(count))
    explicit, implicit = _ct(implicit=False), _ct(implicit=True)
    yield _walking("CT image, explicit VR", CT_ELEMENTS, explicit, EXPLICIT_LE)
    yield _walking("CT image, implicit VR", CT_ELEMENTS, implicit, IMPLICIT_LE)
    for name, more in (
        (f"the same behind {PRIVATE_ELEMENTS} private elements", _private_elements()),
        (f"the same behind a sequence of {ITEMS} items", _sequence()),
    ):
        total, added = more
        yield _walking(name, CT_ELEMENTS + total, _amid(explicit, added), EXPLICIT_LE)


def _framing(name: str, unit: str, units: int, stream: bytes) -> Case:
    framer = Framer()
    request = associate_rq("ChRIS", "BENCHMARK", EXPLICIT_VR_LITTLE_ENDIAN)
    framer.feed(request, 0, len(request))
    cuts = [(at, min(at + RECEIVED, len(stream))) for at in range(0, len(stream), RECEIVED)]
    for start, stop in cuts:
        if any(isinstance(event, Violation) for event in framer.feed(stream, start, stop)):
            raise ValueError(f"{name}: not what a sender sends")

    def run() -> None:
        for start, stop in cuts:
            framer.feed(stream, start, stop)

    return Case("_pdu.Framer", name, unit, units, len(stream), run)


def _walking(name: str, units: int, data_set: bytes, encoding: int) -> Case:
    def run() -> None:
        walker = Walker(encoding)
        walker.feed(data_set, 0, len(data_set))
        walker.finish()

    walker = Walker(encoding)
    walker.feed(data_set, 0, len(data_set))
    walker.finish()
    if walker.failed or not walker.sop_instance_uid:
        raise ValueError(f"{name}: {walker.error}")
    return Case("_dataset.Walker", name, "an element", units, len(data_set), run)


def _tiny_pdvs(count: int) -> bytes:
    """Encode a command, then one PDU of `count` fragments of two bytes."""
    command = b"".join(p_data(store_rq(sop_instance_uid(1, 0), 1), COMMAND, 16384))
    pdv = struct.pack(">IBB", 4, CONTEXT_ID, 0) + b"\0\0"
    last = struct.pack(">IBB", 4, CONTEXT_ID, LAST) + b"\0\0"
    return command + struct.pack(">BxI", 4, 8 * count) + pdv * (count - 1) + last


def _ct(implicit: bool) -> bytes:
    pixels = 512
    return data_set_head(1, 0, pixels, implicit) + bytes(pixels)


def _private_elements() -> tuple[int, bytes]:
    creator = element(0x00090010, b"LO", b"BENCHMARK")
    several = (element(0x00091000 + n, b"LO", b"%08d" % n) for n in range(1, PRIVATE_ELEMENTS))
    return PRIVATE_ELEMENTS, creator + b"".join(several)


def _sequence() -> tuple[int, bytes]:
    """Encode a sequence of undefined length with items of undefined length, two elements each
    (PS3.5 7.5)."""
    tags = element(0x00081150, b"UI", b"1.2.840.10008.5.1.4.1.1.2")
    tags += element(0x00081155, b"UI", b"1.2.826.0.1.3680043.10.1714.1.1.1")
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + tags
    item += struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
    header = struct.pack("<HH2sxxI", 0x0008, 0x1140, b"SQ", 0xFFFFFFFF)
    return 2 * ITEMS + 1, header + item * ITEMS + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def _amid(data_set: bytes, added: bytes) -> bytes:
    """Insert `added` before the first element of group 0010, where its tags belong."""
    where = data_set.index(struct.pack("<HH2s", 0x0010, 0x0010, b"PN"))
    return data_set[:where] + added + data_set[where:]


def measure(case: Case, long_enough: float) -> Result:
    passes, best = 1, float("inf")
    while True:
        seconds = _time(case, passes)
        if seconds >= long_enough:
            break
        passes = max(passes + 1, round(passes * 1.2 * long_enough / max(seconds, 1e-6)))
    for _ in range(REPEATS):
        best = min(best, _time(case, passes) / passes)
    return Result(*(case.group, case.name, case.unit), best / case.units * 1e9, case.size / best)


def _time(case: Case, passes: int) -> float:
    run = case.run
    began = time.perf_counter()
    for _ in range(passes):
        run()
    return time.perf_counter() - began


def grid_of(results: list[Result]) -> Grid:
    groups: dict[str, list[list[str]]] = {}
    for one in results:
        cells = [one.name, f"{number(one.nanoseconds)} {one.unit}"]
        groups.setdefault(one.group, []).append([*cells, number(one.bytes_per_second / 1e6)])
    return Grid("micro", "Compiled parsers alone", ["ns", "MB/s"], list(groups.items()), [])


def main(out: Path) -> int:
    """Print the results, and write micro.json, .md, .svg and .png below `out`."""
    machine = this_machine()
    every = list(cases())
    console = Console(stderr=True)
    results = [
        measure(case, LONG_ENOUGH)
        for case in track(every, "measuring", console=console, transient=True)
    ]
    grid = grid_of(results)
    Console().print(rich_table(grid))
    out.mkdir(parents=True, exist_ok=True)
    report = msgspec.json.encode(MicroReport(machine, results))
    (out / "micro.json").write_bytes(msgspec.json.format(report))
    (out / "micro.md").write_text(f"- {machine}\n\n{markdown(grid)}")
    draw(grid.key, grid.title, _panels(results), [str(machine)], out)
    return 0


def _panels(results: list[Result]) -> list[Panel]:
    def panel(title: str, value: Callable[[Result], float], text: Callable[[Result], str]) -> Panel:
        groups: dict[str, list[Line]] = {}
        for one in results:
            groups.setdefault(one.group, []).append(
                Line(one.name, value(one), text(one), colour=OURS)
            )
        return Panel(title, list(groups.items()))

    return [
        panel(
            *("nanoseconds", lambda one: one.nanoseconds),
            lambda one: f"{number(one.nanoseconds)} {one.unit}",
        ),
        panel(
            *("MB/s", lambda one: one.bytes_per_second / 1e6),
            lambda one: number(one.bytes_per_second / 1e6),
        ),
    ]
