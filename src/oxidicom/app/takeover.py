"""Series that others left open become ours: those of an earlier process at the start, and later
those of a worker, or of another receiver on the same folder, that dies (promise 4)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Final, NamedTuple

from oxidicom.logevents import event
from oxidicom.ports import SeriesInfo
from oxidicom.series.journal import Journal, JournalFaults
from oxidicom.series.journal_recovery import recover
from oxidicom.series.leases import LEASE_RENEWAL_S, ReceiverLeases
from oxidicom.store.instance_files import list_instances

logger = logging.getLogger("oxidicom")

AGAIN: Final = 2.0
"""Seconds until an entry of the journal is looked at again that could not be read."""


class Recovered(NamedTuple):
    """A series that was found open."""

    series: SeriesInfo
    associations: tuple[str, ...]
    instances: frozenset[str]
    """SOP Instance UIDs in its folder."""


Adopt = Callable[[Sequence[Recovered]], None]


def owner_of(writer: str) -> str:
    """The receiver, by its name on the roll, whose process `writer` is."""
    return writer.partition("/")[0]


class Takeover:
    """`at_start`, then `start` and `stop` on the control plane's loop."""

    def __init__(self, journal: Journal, roll: ReceiverLeases, root_fd: int) -> None:
        self._journal = journal
        self._roll = roll
        self._root_fd = root_fd
        self._tasks: set[asyncio.Task[None]] = set()
        self._reading = 0
        """Searches under way, or waiting for entries that could not be read."""
        self._owed: list[str] = []
        """Names of receivers, or writers, that died: what they left is ours, and not found yet."""

    def at_start(self) -> list[Recovered]:
        """Whatever no living receiver has; raises OSError."""
        # First: of several that start at once, each takes what it has claimed, and what nobody can.
        ours = set(self._roll.take_over_dead())
        holders = self._roll.successors()
        lives: dict[str, bool] = {}

        def is_nobodys(writer: str) -> bool:
            owner = owner_of(writer)
            if owner not in lives:
                lives[owner] = owner not in ours and self._roll.is_alive(holders.get(owner, owner))
            return not lives[owner]

        recovered, self._unreadable = self._recover(is_nobodys)
        if not self._unreadable:
            for name in ours - lives.keys():
                self._roll.forget(name)
        self._is_nobodys = is_nobodys
        if recovered:
            event(
                logger,
                logging.WARNING,
                "open series recovered from the journal",
                series=len(recovered),
            )
        return recovered

    def start(self, adopt: Adopt) -> None:
        """`adopt` is called with what is found later, on this loop."""
        self._adopt = adopt
        self._read_later(self._unreadable, self._is_nobodys)
        self._run(self._watch_others())

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()

    @property
    def found_all(self) -> bool:
        """Nothing that is ours to find is left."""
        return not (self._reading or self._owed)

    async def of_worker(self, writer: str) -> list[Recovered]:
        """What cannot be found now is adopted later."""
        try:
            return await self._of(lambda other: other == writer)
        except OSError as error:
            event(logger, logging.ERROR, "journal unreadable; retrying", error=error)
            self._owed.append(writer)
            return []

    async def _of(self, accepts: Callable[[str], bool]) -> list[Recovered]:
        self._reading += 1
        try:
            recovered, unreadable = await asyncio.to_thread(self._recover, accepts)
        except OSError:  # only then: whoever is cancelled has found nothing
            self._reading -= 1
            raise
        self._reading -= 1
        self._read_later(unreadable, accepts)
        return recovered

    def _read_later(self, names: Collection[str], accepts: Callable[[str], bool]) -> None:
        if names:
            self._reading += 1
            self._run(self._until_readable(names, accepts))

    def _run(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _until_readable(self, names: Collection[str], accepts: Callable[[str], bool]) -> None:
        wait = AGAIN
        while names:
            await asyncio.sleep(wait)
            wait = min(2 * wait, 60.0)
            recovered, names = await asyncio.to_thread(self._recover, accepts, names)
            self._adopt(recovered)
        self._reading -= 1

    async def _watch_others(self) -> None:
        well = True
        while True:
            await asyncio.sleep(LEASE_RENEWAL_S)
            try:
                await asyncio.to_thread(self._claim_of_others)
                while self._owed:
                    await self._take_over(self._owed[0])
                    self._owed.pop(0)
                well = True
            except OSError as error:
                if well:
                    event(
                        logger,
                        logging.ERROR,
                        "receiver leases unreadable; retrying",
                        error=error,
                    )
                well = False

    async def _take_over(self, name: str) -> None:
        recovered = await self._of(lambda writer: name in (writer, owner_of(writer)))
        self._adopt(recovered)
        if owner_of(name) == self._roll.name:  # a worker
            return
        if not recovered and not self._reading:
            await asyncio.to_thread(self._roll.forget, name)
        if recovered:
            event(
                logger,
                logging.WARNING,
                "series taken over from a dead receiver",
                series=len(recovered),
            )

    def _claim_of_others(self) -> None:
        if self._roll.renew():
            self._owed += self._roll.take_over_dead()

    def _recover(
        self, accepts: Callable[[str], bool], names: Collection[str] | None = None
    ) -> tuple[list[Recovered], Collection[str]]:
        """Also the names of entries that cannot be read now; raises OSError."""
        faults = JournalFaults()
        recovered = [
            Recovered(series, associations, self._instances_of(series))
            for series, associations in recover(self._journal, faults, accepts, names)
        ]
        for fault in faults.invalid:
            event(logger, logging.ERROR, "journal entry invalid", fault=f"journal: {fault}")
        for name, why in faults.unreadable.items():
            fault = f"journal: {name}: {why}"
            event(logger, logging.ERROR, "journal entry unreadable; retrying", fault=fault)
        return recovered, faults.unreadable.keys()

    def _instances_of(self, series: SeriesInfo) -> frozenset[str]:
        try:
            return frozenset(list_instances(self._root_fd, series.path.encode()))
        except OSError:
            return frozenset()
