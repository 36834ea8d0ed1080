"""Which receivers use a state folder, so that none takes the open series of another that lives.

Each has a file there and touches it now and then; there are no locks, which network file systems
keep badly, and all times are of the one clock of that file system. The file of one that died is
renamed to `dead@heir` by whoever takes over what it left: if the heir dies before all is
registered, so does whoever comes next.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Final

from oxidicom import filesystem
from oxidicom.process_signature import is_left_behind, is_signed, sign

BEAT: Final = 10.0
"""Seconds from one touch to the next."""

PATIENCE: Final = 60.0
"""Seconds without one after which a receiver of another host is dead."""

_HEIR: Final = "@"

_PLACE: Final = re.compile(r"^(?P<host>[^-]*)-.*-ns(?P<space>\d+)$")


class ReceiverLeases:
    """A folder, made if it is not there. Methods block and raise OSError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        space = os.readlink("/proc/self/ns/pid").strip("pid:[]")
        self.name = f"{sign()}-ns{space}"
        """Ours, and nobody else's. A number of a process tells nothing in another namespace."""
        self._path = folder / self.name
        self._judges = False
        """Whether others have had time to touch their files since we can tell: not at the start,
        for storage may have hung for all until a moment ago."""

    def sign_on(self) -> None:
        filesystem.create_folder(self._folder, sync=False)
        os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))

    def beat(self) -> bool:
        """Whether the one before was not long ago. If it was, storage has hung, or this machine;
        others may not have had their turn since, and are not to be judged now."""
        self._judges = False
        try:
            before = os.stat(self._path).st_mtime
            os.utime(self._path)
        except FileNotFoundError:  # somebody cleaned up, or thought that we were dead
            self.sign_on()
            return False
        self._judges = os.stat(self._path).st_mtime - before < PATIENCE / 2
        return self._judges

    def sign_off(self) -> None:
        """All that we had, and took over, is registered."""
        for name in filesystem.names(self._folder):
            if _holder(name) == self.name:
                filesystem.remove_if_there(self._folder / name)

    def lives(self, name: str) -> bool:
        """As of our latest beat. What is no name of a receiver does not live."""
        if name == self.name:
            return True
        if not is_signed(name):
            return False
        if _place(name) == _place(self.name):
            return not is_left_behind(name)
        try:
            latest = os.stat(self._folder / name).st_mtime
        except FileNotFoundError:
            return False
        return not self._judges or latest > os.stat(self._path).st_mtime - PATIENCE

    def holders(self) -> dict[str, str]:
        """By the name of one that died, who has taken over what it left."""
        pairs = (name.split(_HEIR, 1) for name in filesystem.names(self._folder) if _HEIR in name)
        return dict(pairs)

    def take_over_dead(self) -> list[str]:
        """Names of receivers that have died without signing off, or whose heir has: what they left
        is ours. Of several who find one dead, one gets it."""
        found = [name for name in filesystem.names(self._folder) if not self.lives(_holder(name))]
        claimed = [_owner(name) for name in found if self._claim(name)]
        # One that only seemed dead, to an heir that died since, has its own.
        return [name for name in claimed if not self.lives(name)]

    def forget(self, name: str) -> None:
        """One whose place we took, and who has left nothing."""
        filesystem.remove_if_there(self._folder / f"{name}{_HEIR}{self.name}")

    def _claim(self, name: str) -> bool:
        with suppress(FileNotFoundError):
            os.rename(self._folder / name, self._folder / f"{_owner(name)}{_HEIR}{self.name}")
            return True
        return False


def _owner(name: str) -> str:
    return name.partition(_HEIR)[0]


def _holder(name: str) -> str:
    return name.rpartition(_HEIR)[2]


def _place(name: str) -> tuple[str, str] | None:
    match = _PLACE.match(name)
    return match and (match["host"], match["space"])
