"""The rows: the work that every receiver is given."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import NamedTuple

from pydicom.uid import UID_dictionary

from benchmarks.encoding import (
    CT_IMAGE_STORAGE,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

USUAL_PDU = 128 * KIB
"""Bytes of the longest PDU that a receiver is to ask for, unless a row says otherwise."""


class Row(NamedTuple):
    """One line of a table, for each receiver."""

    key: str
    title: str
    size: int
    """Bytes of one data set."""
    senders: int = 1
    max_pdu: int = USUAL_PDU
    transfer_syntax: str = EXPLICIT_VR_LITTLE_ENDIAN
    contexts: int = 1
    """Number of presentation contexts that an association proposes."""
    association_each: bool = False
    """Whether each instance has an association of its own."""
    nagle: bool = False
    idle: int = 0
    """Number of associations that are open beside the senders and send nothing."""
    against: str = ""
    """Key of the row that is equal except for what this one adds."""
    share_of: str = ""
    """Key of the row of whose speed this one's timetable offers a share: an open loop."""
    share: float = 1.0
    instances: int = 1_000_000
    """Greatest number of instances of each sender."""
    quick: bool = False
    """Whether the row is part of a quick run."""

    @property
    def associations(self) -> int:
        """Number of associations that are open at once."""
        return self.senders + self.idle


class Effort(NamedTuple):
    """How much a run spends on a row."""

    seconds: float
    """Seconds for one receiver in one round; an instance that has begun is finished."""
    stored_bytes: int
    """Bytes for one receiver in one round; the storage must have room for them."""
    rounds: int
    budget: float
    """Seconds that a run may take: a round that would not end in time is not begun."""


FULL = Effort(seconds=1.5, stored_bytes=GIB, rounds=5, budget=1600.0)
QUICK = Effort(seconds=0.4, stored_bytes=256 * MIB, rounds=3, budget=105.0)


def _closed() -> list[Row]:
    return [
        Row("1x512k", "1 sender, 512 KiB", 512 * KIB, quick=True),
        Row("1x20k", "1 sender, 20 KiB", 20 * KIB, quick=True),
        Row("1x1k", "1 sender, 1 KiB", KIB),
        Row("8x512k", "8 senders, 512 KiB", 512 * KIB, senders=8),
        Row("8x20k", "8 senders, 20 KiB", 20 * KIB, senders=8, quick=True),
        Row("pdu-16k", "512 KiB, PDUs of 16 KiB", 512 * KIB, max_pdu=16 * KIB),
        Row("pdu-unlimited", "512 KiB, PDUs unlimited", 512 * KIB, max_pdu=0),
        Row(
            *("implicit-512k", "512 KiB, Implicit VR", 512 * KIB),
            transfer_syntax=IMPLICIT_VR_LITTLE_ENDIAN,
        ),
        Row(
            *("implicit-20k", "20 KiB, Implicit VR", 20 * KIB),
            transfer_syntax=IMPLICIT_VR_LITTLE_ENDIAN,
        ),
        Row("associations", "1 instance of 4 KiB each, 128 contexts", 4 * KIB)._replace(
            contexts=128, association_each=True, quick=True
        ),
        Row("nagle-4k", "1 sender with Nagle's algorithm, 4 KiB", 4 * KIB, nagle=True, quick=True),
        Row("idle-200", "1 sender, 20 KiB, beside 200 idle", 20 * KIB, idle=200)._replace(
            against="1x20k", quick=True
        ),
    ]


def _open() -> list[Row]:
    closed = Row("4x20k", "4 senders, 20 KiB, closed loop", 20 * KIB, senders=4, quick=True)
    return [
        closed,
        *(
            closed._replace(
                key=f"open-{percent}",
                title=f"the same at {percent} % of its own closed loop",
                share_of=closed.key,
                share=percent / 100,
                quick=percent == 50,
            )
            for percent in (25, 50, 75)
        ),
    ]


def _one_large(size: int) -> Row:
    amount = f"{size // GIB} GiB" if size >= GIB else f"{size // MIB} MiB"
    return Row("one-large", f"1 instance of {amount}", size, instances=1, quick=True)


def rows(effort: Effort, quick: bool) -> list[Row]:
    """Return the rows in the order in which they run: a row comes after the one that it is a share
    of."""
    everything = [*_closed(), *_open(), _one_large(effort.stored_bytes)]
    return [row for row in everything if row.quick or not quick]


def chosen(matrix: Sequence[Row], patterns: str) -> list[Row]:
    """Return the rows whose key matches one of `patterns` (shell patterns separated by commas), and
    those that they are compared with. Raises ValueError where a pattern matches none."""
    keys: set[str] = set()
    for pattern in filter(None, patterns.split(",")):
        fitting = fnmatch.filter([row.key for row in matrix], pattern)
        if not fitting:
            raise ValueError(
                f"no row is called {pattern}; there are {', '.join(row.key for row in matrix)}"
            )
        keys.update(fitting)
    keys |= {key for row in matrix if row.key in keys for key in (row.share_of, row.against)}
    return [row for row in matrix if not patterns or row.key in keys]


def other_contexts(count: int) -> tuple[str, ...]:
    """Return the abstract syntaxes of `count` storage services other than CT images."""
    storage = sorted(
        uid
        for uid, (name, kind, *_) in UID_dictionary.items()
        if kind == "SOP Class" and name.endswith("Storage") and uid != CT_IMAGE_STORAGE
    )
    if len(storage) < count:
        raise ValueError(f"{count} contexts, but {len(storage)} storage SOP classes")
    return tuple(storage[:count])
