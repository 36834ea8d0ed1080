"""Folders and files below an open root folder, reached without following a symbolic link
(decision 25).

Each function takes a descriptor of the root and a path relative to it, as bytes with `/` between
the components. The root itself may be reached through a link. O_NOFOLLOW concerns only the last
component of a path, so each folder is opened from its parent. The compiled writer follows the same
rule for the folder of a received instance, with one openat2(2) where the kernel has it
(`_writer.open_folder`).

All functions raise OSError: ELOOP or ENOTDIR where a link or a file is in the way, EINVAL for a
path or a name that `is_below` refuses. They may be called from any thread.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from oxidicom.filesystem import close_folder

_NO_FOLDER_ERRORS: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
"""The errnos with which opening a folder fails where there is nothing, a file or a link instead.
With any other errno there may be a folder."""

_OPEN_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def open_root(folder: Path) -> int:
    """Return a descriptor of the root `folder`, which may be a link. The caller closes it."""
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def is_below(path: bytes) -> bool:
    """Return whether `path` is a relative path without NUL bytes and without empty, `.` or `..`
    components."""
    return b"\0" not in path and not {b"", b".", b".."}.intersection(path.split(b"/"))


def open_folder(root_fd: int, path: bytes) -> int:
    """Return a descriptor of the folder `path` below the root. The caller closes it."""
    return _descend(root_fd, path, lambda parent, component: None)


def _descend(root_fd: int, path: bytes, prepare: Callable[[int, bytes], None]) -> int:
    """Open each folder of `path` from its parent, and return a descriptor of the last one.

    `prepare(parent, component)` is called before each folder is opened.
    """
    _check(path)
    parent = os.dup(root_fd)
    for component in path.split(b"/"):
        try:
            prepare(parent, component)
            child = os.open(component, _OPEN_FOLDER, dir_fd=parent)
        finally:
            close_folder(parent)
        parent = child
    return parent


def open_folder_if_there(root_fd: int, path: bytes) -> int | None:
    """Return a descriptor as `open_folder` does; None if there is no such folder below the root."""
    if not is_below(path):
        return None
    try:
        return open_folder(root_fd, path)
    except OSError as error:
        if error.errno in _NO_FOLDER_ERRORS:
            return None
        raise


@contextmanager
def _opened_folder(root_fd: int, path: bytes) -> Iterator[int]:
    """Open a folder for the duration of a `with` block."""
    fd = open_folder(root_fd, path)
    try:
        yield fd
    finally:
        close_folder(fd)


def make_folders(root_fd: int, path: bytes, *, sync: bool, first_mode: int = 0o755) -> bool:
    """Make each missing folder of `path`; return whether this call made the last one.

    The first component gets the mode `first_mode` and the others 0o755, both reduced by the umask.
    With `sync` the whole path is on the device when this returns, even if the folders
    existed: another thread may have made them and not have synced them yet.
    """
    made = False
    mode = first_mode

    def make(parent: int, component: bytes) -> None:
        nonlocal made, mode
        made = False
        with suppress(FileExistsError):
            os.mkdir(component, mode, dir_fd=parent)
            made = True
        mode = 0o755
        if sync:
            os.fsync(parent)

    close_folder(_descend(root_fd, path, make))
    return made


def list_files(root_fd: int, path: bytes, *, missing_ok: bool = False) -> list[str]:
    """Return the names of the regular files in a folder, in no particular order.

    If `path` leads to no folder below the root, the list is empty with `missing_ok`, and OSError is
    raised without it.
    """
    fd = open_folder_if_there(root_fd, path) if missing_ok else open_folder(root_fd, path)
    if fd is None:
        return []
    try:
        with os.scandir(fd) as entries:
            return [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
    finally:
        close_folder(fd)


def create_empty_file(root_fd: int, path: bytes, name: bytes, *, sync: bool) -> None:
    """Create an empty file, and the folders of `path` that are missing.

    An existing regular file is kept unchanged. Anything else of that name is an error: ELOOP for a
    link, FileExistsError for a FIFO with a reader or a device, another OSError otherwise. With
    `sync` the file and its folders are on the device when this returns.
    """
    _check_name(name)
    make_folders(root_fd, path, sync=sync)
    with _opened_folder(root_fd, path) as folder:
        file = os.open(name, _CREATE_FILE, 0o644, dir_fd=folder)
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            if sync:
                os.fsync(file)
        finally:
            os.close(file)
        if sync:
            os.fsync(folder)


def remove_file(root_fd: int, path: bytes, name: bytes) -> None:
    """Remove a regular file; do nothing where `name` is missing or is not a regular file."""
    _check_name(name)
    with _opened_folder(root_fd, path) as folder, suppress(FileNotFoundError):
        if stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=folder)


def _check(path: bytes) -> None:
    if not is_below(path):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


def _check_name(name: bytes) -> None:
    _check(name)
    if b"/" in name:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
