"""The folders below the files root as those see them who tell CUBE of files (promise: no link
below the root is followed)."""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from oxidicom.filesystem import close_folder
from oxidicom.store.folders import make_folders, open_folder

_NO_FOLDER: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
"""What opening says of a missing folder, a file, a link."""


class LocalSeriesFiles:
    """`root_fd` is the open files root; `sync`: what is put there is on the device when `put_empty`
    returns. The methods block; they may be called from any thread."""

    def __init__(self, root_fd: int, *, sync: bool) -> None:
        self._root_fd = root_fd
        self._sync = sync

    def names(self, path: str) -> list[str]:
        """Of the regular files in the folder `path`, sorted; none if there is no such folder.

        Names that are no text are left out: nobody could be told of them. Raises OSError for
        anything that keeps us from knowing.
        """
        if not is_below(path):
            return []
        try:
            fd = open_folder(self._root_fd, path.encode())
        except OSError as error:
            if error.errno in _NO_FOLDER:
                return []
            raise
        try:
            with os.scandir(fd) as entries:
                return sorted(
                    entry.name
                    for entry in entries
                    if entry.name.isprintable() and entry.is_file(follow_symlinks=False)
                )
        finally:
            close_folder(fd)

    def put_empty(self, path: str, name: str) -> None:
        """See to it that the empty file `name` stands in `path`, folders included.

        An empty file is whole from its beginning. Raises OSError: ELOOP, ENOTDIR or EEXIST where
        something else stands in the way, EINVAL for a path that leads elsewhere.
        """
        if not is_below(f"{path}/{name}"):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        make_folders(self._root_fd, path.encode(), self._sync)
        fd = open_folder(self._root_fd, path.encode())
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            file = os.open(name, flags, 0o644, dir_fd=fd)
            try:
                if not stat.S_ISREG(os.fstat(file).st_mode):
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
                if self._sync:
                    os.fsync(file)
            finally:
                os.close(file)
            if self._sync:
                os.fsync(fd)
        finally:
            close_folder(fd)


def is_below(path: str) -> bool:
    """Whether it leads to something below the folder that it is relative to."""
    return "\0" not in path and not {"", ".", ".."}.intersection(path.split("/"))
