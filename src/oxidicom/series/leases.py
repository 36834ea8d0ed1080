"""Leases show which receivers that share a state folder are alive, so that no receiver takes over
the open series of another one that is running.

A lease is a file that its receiver touches at intervals. No locks are used, because network file
systems implement them unreliably. All times are those of one clock, that of the file system. The
successor of a dead receiver renames the lease to `dead@successor`; if the successor dies before all
series are registered, the next receiver that finds the lease becomes the successor.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Final

from oxidicom import filesystem
from oxidicom.process_signature import is_left_behind, is_signed, sign

LEASE_RENEWAL_S: Final = 10.0
"""Seconds from one renewal of a lease to the next."""

LEASE_LIFETIME_S: Final = 60.0
"""Seconds without a renewal after which a receiver of another host counts as dead."""

_SUCCESSOR_MARK: Final = "@"

_HOST: Final = re.compile(r"^(?P<host>[^-]*)-.*-ns(?P<namespace>\d+)$")


class ReceiverLeases:
    """The folder of all leases, as one receiver uses it.

    `acquire` makes the folder if it is missing. Methods block, and raise OSError.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        namespace = os.readlink("/proc/self/ns/pid").strip("pid:[]")
        self.name = f"{sign()}-ns{namespace}"
        """Name of this receiver and of its lease, unique among all receivers. It includes the PID
        namespace, because process numbers are valid in one namespace only."""
        self._path = folder / self.name
        self._can_judge = False
        """Whether an old lease proves that its receiver, on another host, is dead. False at the
        start and after a late renewal, because the storage may have hung for every receiver."""

    def acquire(self) -> None:
        """Create the lease of this receiver, and the folder if it is missing."""
        filesystem.create_folder(self._folder, sync=False)
        os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))

    def renew(self) -> bool:
        """Renew the lease; return whether the previous renewal was recent.

        If it was not, or the lease was missing, the storage or this machine may have hung. Other
        receivers may not have been able to renew either, so none on another host counts as dead
        until the next renewal.
        """
        self._can_judge = False
        try:
            before = os.stat(self._path).st_mtime
            os.utime(self._path)
        except FileNotFoundError:  # an operator removed it, or a receiver took this one for dead
            self.acquire()
            return False
        self._can_judge = os.stat(self._path).st_mtime - before < LEASE_LIFETIME_S / 2
        return self._can_judge

    def release(self) -> None:
        """Remove the lease of this receiver and those that it has taken over.

        Must be called only when all their series are registered.
        """
        for name in filesystem.names(self._folder):
            if _holder(name) == self.name:
                filesystem.remove_if_there(self._folder / name)

    def is_alive(self, name: str) -> bool:
        """Return whether the receiver `name` was alive at the latest renewal of this one.

        Returns False if `name` is not the name of a receiver.
        """
        if name == self.name:
            return True
        if not is_signed(name):
            return False
        if _host(name) == _host(self.name):
            return not is_left_behind(name)
        try:
            latest = os.stat(self._folder / name).st_mtime
        except FileNotFoundError:
            return False
        return not self._can_judge or latest > os.stat(self._path).st_mtime - LEASE_LIFETIME_S

    def successors(self) -> dict[str, str]:
        """Return the name of the successor of each dead receiver that has one, by the name of the
        dead one."""
        pairs = (
            name.split(_SUCCESSOR_MARK, 1)
            for name in filesystem.names(self._folder)
            if _SUCCESSOR_MARK in name
        )
        return dict(pairs)

    def take_over_dead(self) -> list[str]:
        """Become the successor of each receiver that died without releasing its lease, and of each
        one whose successor died; return their names.

        If several receivers try at the same time, each dead one gets exactly one successor.
        """
        dead = [name for name in filesystem.names(self._folder) if not self.is_alive(_holder(name))]
        claimed = [_original_holder(name) for name in dead if self._claim(name)]
        # A receiver whose lease a successor took over although it was alive keeps its series.
        return [name for name in claimed if not self.is_alive(name)]

    def forget(self, name: str) -> None:
        """Remove the lease of the dead receiver `name`, which this receiver has taken over.

        Must be called only when no open series of it is left.
        """
        filesystem.remove_if_there(self._folder / f"{name}{_SUCCESSOR_MARK}{self.name}")

    def _claim(self, name: str) -> bool:
        claimed = f"{_original_holder(name)}{_SUCCESSOR_MARK}{self.name}"
        with suppress(FileNotFoundError):
            os.rename(self._folder / name, self._folder / claimed)
            return True
        return False


def _original_holder(name: str) -> str:
    return name.partition(_SUCCESSOR_MARK)[0]


def _holder(name: str) -> str:
    """Return the name of the receiver that holds the lease `name` now: the successor if there is
    one, otherwise the original receiver."""
    return name.rpartition(_SUCCESSOR_MARK)[2]


def _host(name: str) -> tuple[str, str] | None:
    """Return the host name and PID namespace of a receiver; None if `name` is not a receiver's.

    Process numbers of two receivers can be compared only if they have the same host name and PID
    namespace.
    """
    match = _HOST.match(name)
    return match and (match["host"], match["namespace"])
