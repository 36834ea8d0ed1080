"""The folder of temporary files, `.oxidicom/tmp` in the files root (promise 3).

A file's name begins with the signature of the process that writes it. At its start a receiver
removes the files of dead processes and keeps those of living ones. Two containers that share a host
name and a files root may still remove each other's files at a start; those instances are refused,
and their senders try again.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from itertools import count
from typing import Final

from oxidicom._writer import PartFile
from oxidicom.below_root import make_folders, open_folder
from oxidicom.process_signature import is_left_behind, is_signed, sign

TEMPORARY_PATH: Final = b".oxidicom/tmp"

STALE_PART_FILE_S: Final = 24 * 3600.0
"""Seconds since its last change after which a part file of another host counts as left behind: no
instance takes a day to receive."""

_SUFFIX: Final = ".part"
_NOT_REMOVABLE: Final = frozenset({errno.ENOENT, errno.EISDIR, errno.EPERM})
"""Errors of unlink(2) for a missing file, a folder, and a file that an administrator has made
immutable. Such a removal is not retried: it would fail again, and no instance takes the fast path
while a name is in `unremoved`."""


class TemporaryFolder:
    """The folder of temporary files below the open files root `root_fd`.

    Makes the folder if it is missing. Raises OSError.
    """

    def __init__(self, root_fd: int) -> None:
        self._root_fd = root_fd
        self.prefix = f"{sign()}-".encode()
        self.numbers = count()
        """Numbers of part files. No other process uses a name of `prefix` and a number."""
        self.unremoved: list[bytes] = []
        """Names of files that could not be removed yet."""
        self._make()
        self.fd = open_folder(root_fd, TEMPORARY_PATH)

    def _make(self) -> None:
        # Only the user of this process can read `.oxidicom`: part files contain patient data.
        make_folders(self._root_fd, TEMPORARY_PATH, sync=False, first_mode=0o700)

    def part_file(self, header: bytes) -> PartFile:
        """Return a part file with a new name. Its first bytes are `header`."""
        name = b"%s%d.part" % (self.prefix, next(self.numbers))
        return PartFile(self.fd, name, header, self.unremoved)

    def retry_removals(self) -> None:
        """Try again to remove the files in `unremoved`; never raises. May run on any thread."""
        with suppress(IndexError):  # another thread took the last name
            while self.unremoved:
                name = self.unremoved.pop()
                try:
                    os.unlink(name, dir_fd=self.fd)
                except OSError as error:
                    if error.errno not in _NOT_REMOVABLE:
                        self.unremoved.append(name)
                        return

    def make_again(self) -> None:
        """Make the folder again after it was removed, and open it under the same descriptor number,
        because existing part files use that number. Raises OSError."""
        self._make()
        fd = open_folder(self._root_fd, TEMPORARY_PATH)
        os.dup2(fd, self.fd, inheritable=False)
        os.close(fd)

    def sweep(self) -> int:
        """Remove the files of dead processes; return how many were removed. Raises OSError."""
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
        return time.time() - os.stat(name, dir_fd=self.fd).st_mtime > STALE_PART_FILE_S

    def close(self) -> None:
        """Try once more to remove the files in `unremoved`, then close the folder."""
        self.retry_removals()
        os.close(self.fd)
