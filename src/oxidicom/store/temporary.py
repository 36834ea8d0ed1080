"""The folder of temporary files, `.oxidicom/tmp` in the files root (promise 3).

Names tell who writes: host, process and its start, so that the next start sweeps what a crash left
behind and not what another process is writing. Two containers of one host name on one root may
still sweep each other's at a start: those instances are refused, and their senders try again.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import time
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Final

from oxidicom._writer import PartFile
from oxidicom.store.folders import make_folders, open_folder

PATH: Final = b".oxidicom/tmp"
_STALE_SECONDS: Final = 24 * 3600.0
"""Nothing is a day in reception; a file of another host that is older has no writer any more."""

_DEAD: Final = frozenset("ZXx")
"""States of proc(5)."""

_NAME: Final = re.compile(
    r"(?P<host>[A-Za-z0-9_.]*)-(?P<pid>\d{1,9})-(?P<start>\d{1,19})-[0-9a-f]+-\d+\.part", re.ASCII
)


def _start_of(pid: int) -> int | None:
    """Clock ticks since boot at which a process began; None if there is no such process, or only
    what is left of one until its parent looks at it."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in _DEAD else int(fields[19])


class TemporaryFolder:
    """Makes temporary files below the open files root `root_fd`; raises OSError."""

    def __init__(self, root_fd: int) -> None:
        self._root_fd = root_fd
        self._host = re.sub(r"[^A-Za-z0-9_.]", "_", socket.gethostname())
        pid = os.getpid()
        # The random part keeps two containers of one host name and one pid apart.
        prefix = f"{self._host}-{pid}-{_start_of(pid) or 0}-{secrets.token_hex(4)}-"
        self.prefix = prefix.encode()
        self.numbers = count()
        """With the prefix they make names that nobody else gives."""
        self._make()
        self.fd = open_folder(root_fd, PATH)

    def _make(self) -> None:
        with suppress(FileExistsError):
            # Patient data on its way: nobody else's to read.
            os.mkdir(PATH.partition(b"/")[0], 0o700, dir_fd=self._root_fd)
        make_folders(self._root_fd, PATH, sync=False)

    def part_file(self, header: bytes) -> PartFile:
        return PartFile(self.fd, b"%s%d.part" % (self.prefix, next(self.numbers)), header)

    def make_again(self) -> None:
        """After somebody removed the folder. Files in reception know the descriptor's number, so
        the number stays."""
        self._make()
        fd = open_folder(self._root_fd, PATH)
        os.dup2(fd, self.fd, inheritable=False)
        os.close(fd)

    def sweep(self) -> int:
        """Remove what dead processes left; returns how many files. Raises OSError."""
        removed = 0
        for name in os.listdir(self.fd):
            match = _NAME.fullmatch(name)
            if match is None or name.startswith(self.prefix.decode()):
                continue
            with suppress(FileNotFoundError):
                if self._is_left_behind(match, name):
                    os.unlink(name, dir_fd=self.fd)
                    removed += 1
        return removed

    def _is_left_behind(self, match: re.Match[str], name: str) -> bool:
        if match["host"] == self._host and _start_of(int(match["pid"])) != int(match["start"]):
            return True
        return time.time() - os.stat(name, dir_fd=self.fd).st_mtime > _STALE_SECONDS

    def close(self) -> None:
        os.close(self.fd)
