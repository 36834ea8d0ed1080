"""The folder of temporary files, `.oxidicom/tmp` in the files root (promise 3).

Signed names, so that the next start sweeps what a crash left behind and not what another process
is writing. Two containers of one host name on one root may still sweep each other's at a start:
those instances are refused, and their senders try again.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from itertools import count
from typing import Final

from oxidicom._writer import PartFile
from oxidicom.process_signature import is_left_behind, is_signed, sign
from oxidicom.store.folders import make_folders, open_folder

PATH: Final = b".oxidicom/tmp"
_STALE_SECONDS: Final = 24 * 3600.0
"""Nothing is a day in reception; a file of another host that is older has no writer any more."""

_SUFFIX: Final = ".part"
_NOT_OURS: Final = frozenset({errno.ENOENT, errno.EISDIR, errno.EPERM})
"""What removing says of no file, a folder, and one that an administrator keeps from being removed:
trying again is of no use, and would keep instances from the fast path for ever."""


class TemporaryFolder:
    """Makes temporary files below the open files root `root_fd`; raises OSError."""

    def __init__(self, root_fd: int) -> None:
        self._root_fd = root_fd
        self.prefix = f"{sign()}-".encode()
        self.numbers = count()
        """With the prefix they make names that nobody else gives."""
        self.left: list[bytes] = []
        """Names of files that should be gone, and that failing storage did not let go."""
        self._make()
        self.fd = open_folder(root_fd, PATH)

    def _make(self) -> None:
        with suppress(FileExistsError):
            # Patient data on its way: nobody else's to read.
            os.mkdir(PATH.partition(b"/")[0], 0o700, dir_fd=self._root_fd)
        make_folders(self._root_fd, PATH, sync=False)

    def part_file(self, header: bytes) -> PartFile:
        name = b"%s%d.part" % (self.prefix, next(self.numbers))
        return PartFile(self.fd, name, header, self.left)

    def remove_left(self) -> None:
        """Try again to remove what should be gone; never raises. From any thread."""
        with suppress(IndexError):  # another thread was quicker
            while self.left:
                name = self.left.pop()
                try:
                    os.unlink(name, dir_fd=self.fd)
                except OSError as error:
                    if error.errno not in _NOT_OURS:
                        self.left.append(name)
                        return

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
            if not name.endswith(_SUFFIX) or not is_signed(name):
                continue
            with suppress(FileNotFoundError):
                if is_left_behind(name) or self._is_stale(name):
                    os.unlink(name, dir_fd=self.fd)
                    removed += 1
        return removed

    def _is_stale(self, name: str) -> bool:
        return time.time() - os.stat(name, dir_fd=self.fd).st_mtime > _STALE_SECONDS

    def close(self) -> None:
        self.remove_left()
        os.close(self.fd)
