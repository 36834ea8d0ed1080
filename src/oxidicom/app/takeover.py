"""Takeover of series that dead processes left open (promise 4).

At the start these are the series of earlier receivers on the state folder; later they are those of
a worker that dies, or of another receiver on the state folder that dies.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Final, NamedTuple

from oxidicom.backoff import Backoff
from oxidicom.disk_executor import DiskExecutor
from oxidicom.logevents import event
from oxidicom.ports import SeriesInfo
from oxidicom.series.journal import Journal, JournalFaults
from oxidicom.series.journal_recovery import recover
from oxidicom.series.leases import LEASE_RENEWAL_S, ReceiverLeases
from oxidicom.store.instance_files import list_instances

logger = logging.getLogger("oxidicom")

FIRST_UNREADABLE_RETRY_S: Final = 2.0
GREATEST_UNREADABLE_RETRY_S: Final = 60.0
"""Seconds between attempts to read an unreadable journal entry; doubled from the first to the
greatest."""


class Recovered(NamedTuple):
    """An open series, recovered from the journal."""

    series: SeriesInfo
    associations: tuple[str, ...]
    """ULIDs of the associations that have carried the series, from its journal entries."""
    instances: frozenset[str]
    """SOP Instance UIDs of the files in its folder; empty if the folder cannot be read."""


Adopt = Callable[[Sequence[Recovered]], None]
"""Takes series that were found after the start."""


def owner_of(writer: str) -> str:
    """Return the name of the receiver of a process that marks its journal entries with `writer`."""
    return writer.partition("/")[0]


class Takeover:
    """Finds the series that dead processes left open, and takes them over.

    Call `at_start` first, then the other methods on the control plane's loop. `root_fd` is a file
    descriptor of the files root.
    """

    def __init__(self, journal: Journal, leases: ReceiverLeases, root_fd: int) -> None:
        self._journal = journal
        self._leases = leases
        self._root_fd = root_fd
        # Four threads: a search that hangs must not prevent the renewal of our lease.
        self._disk = DiskExecutor("ox-takeover", 4)
        self._tasks: set[asyncio.Task[None]] = set()
        self._searches = 0
        """Number of searches of the journal that are in progress or have entries to read again."""
        self._not_searched: list[str] = []
        """Dead receivers, by name, and dead workers, by writer, whose journal entries are to be
        read."""

    def at_start(self) -> list[Recovered]:
        """Return the open series that belong to no living receiver. Raises OSError."""
        # First, so that receivers that start at the same time recover different series, except
        # those of receivers without a lease.
        ours = set(self._leases.take_over_dead())
        successors = self._leases.successors()
        alive: dict[str, bool] = {}

        def is_abandoned(writer: str) -> bool:
            owner = owner_of(writer)
            if owner not in alive:
                holder = successors.get(owner, owner)
                alive[owner] = owner not in ours and self._leases.is_alive(holder)
            return not alive[owner]

        recovered, self._unreadable = self._recover(is_abandoned)
        if not self._unreadable:
            for name in ours - alive.keys():
                self._leases.forget(name)
        self._is_abandoned = is_abandoned
        if recovered:
            event(
                logger,
                logging.WARNING,
                "open series recovered from the journal",
                series=len(recovered),
            )
        return recovered

    def start(self, adopt: Adopt) -> None:
        """Begin to watch other receivers; call `adopt` on this loop with series that are found."""
        self._adopt = adopt
        self._read_later(self._unreadable, self._is_abandoned)
        self._run(self._watch_others())

    def stop(self) -> None:
        """Stop watching other receivers, and give up on journal entries that could not be read."""
        for task in self._tasks:
            task.cancel()

    def close(self) -> None:
        """End the threads without waiting for one that hangs."""
        self._disk.close()

    @property
    def found_all(self) -> bool:
        """Whether no search of the journal for series to take over is in progress or to be made."""
        return not (self._searches or self._not_searched)

    async def of_worker(self, writer: str) -> list[Recovered]:
        """Return the open series of the dead worker `writer`.

        If entries or the journal cannot be read now, their series are adopted later.
        """
        try:
            return await self._search(lambda other: other == writer)
        except OSError as error:
            event(logger, logging.ERROR, "journal unreadable; retrying", error=error)
            self._not_searched.append(writer)
            return []

    async def _search(self, accepts: Callable[[str], bool]) -> list[Recovered]:
        self._searches += 1
        try:
            recovered, unreadable = await self._disk.run(self._recover, accepts)
        except OSError:  # not after a cancellation, which has not completed the search
            self._searches -= 1
            raise
        self._searches -= 1
        self._read_later(unreadable, accepts)
        return recovered

    def _read_later(self, names: Collection[str], accepts: Callable[[str], bool]) -> None:
        if names:
            self._searches += 1
            self._run(self._until_readable(names, accepts))

    def _run(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _until_readable(self, names: Collection[str], accepts: Callable[[str], bool]) -> None:
        backoff = Backoff(FIRST_UNREADABLE_RETRY_S, GREATEST_UNREADABLE_RETRY_S)
        while names:
            await asyncio.sleep(backoff.failed())
            recovered, names = await self._disk.run(self._recover, accepts, names)
            self._adopt(recovered)
        self._searches -= 1

    async def _watch_others(self) -> None:
        failing = False
        while True:
            await asyncio.sleep(LEASE_RENEWAL_S)
            try:
                await self._disk.run(self._claim_of_others)
                while self._not_searched:
                    await self._take_over(self._not_searched[0])
                    self._not_searched.pop(0)
                failing = False
            except OSError as error:
                if not failing:
                    event(
                        logger,
                        logging.ERROR,
                        "receiver leases unreadable; retrying",
                        error=error,
                    )
                failing = True

    async def _take_over(self, name: str) -> None:
        """Adopt the series of the dead receiver or worker `name`. Raises OSError."""
        recovered = await self._search(lambda writer: name in (writer, owner_of(writer)))
        self._adopt(recovered)
        if owner_of(name) == self._leases.name:  # a worker
            return
        if not recovered and not self._searches:
            await self._disk.run(self._leases.forget, name)
        if recovered:
            event(
                logger,
                logging.WARNING,
                "series taken over from a dead receiver",
                series=len(recovered),
            )

    def _claim_of_others(self) -> None:
        if self._leases.renew():
            self._not_searched += self._leases.take_over_dead()

    def _recover(
        self, accepts: Callable[[str], bool], names: Collection[str] | None = None
    ) -> tuple[list[Recovered], Collection[str]]:
        """Return the open series of writers that `accepts` returns True for, and unread entries.

        The latter are names of journal entries that cannot be read now. `names`, unless None,
        limits the search to these entries. Raises OSError if the journal cannot be listed.
        """
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
