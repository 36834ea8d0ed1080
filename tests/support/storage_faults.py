"""Storage that fails, hangs or writes short on demand, for receivers that a test starts.

A small library (storage_faults.c), preloaded, stands before the C library's calls: Python's and
those of compiled code. What is to happen is said in memory that the test shares with the receiver
and all its workers, so that one process serves any number of cases.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import mmap
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

import pytest

from tests.support.receiver import wait_until

CALLS: Final = (
    *("any", "open", "write", "fsync", "close", "rename", "mkdir", "unlink", "stat", "statvfs"),
    *("list", "dup", "read"),
)
FOR_EVER: Final = -1
_SOURCE: Final = Path(__file__).with_suffix(".c")


class _Control(ctypes.Structure):
    """storage_faults.c's `struct control`."""

    _fields_ = (
        ("root", ctypes.c_char * 512),
        ("below", ctypes.c_char * 512),
        ("call", ctypes.c_int32),
        ("error", ctypes.c_int32),
        ("most", ctypes.c_int32),
        ("hold", ctypes.c_int32),
        ("first", ctypes.c_int64),
        ("times", ctypes.c_int64),
        ("delay_ns", ctypes.c_int64),
        ("seen", ctypes.c_int64),
        ("hits", ctypes.c_int64),
        ("held", ctypes.c_int64),
        ("hit_call", ctypes.c_int32),
        ("hit_path", ctypes.c_char * 512),
    )


class StorageFaults:
    """`environment` is for the receiver. Made by `storage_faults`, below."""

    def __init__(self, library: Path, memory: Path, root: Path) -> None:
        memory.write_bytes(bytes(ctypes.sizeof(_Control)))
        with memory.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)
        self._control = _Control.from_buffer(self._memory)
        self._control.root = os.fsencode(root.resolve())
        self.environment = {"LD_PRELOAD": str(library), "STORAGE_FAULTS": str(memory)}

    def close(self) -> None:
        self.end()
        del self._control
        self._memory.close()

    def begin(
        self,
        error: int = 0,
        *,
        call: str = "any",
        below: str = "",
        first: int = 1,
        times: int = FOR_EVER,
        most: int = 0,
        delay: float = 0,
        hold: bool = False,
    ) -> None:
        """From the `first` call on that fits, the next `times` fail with `error`, or write `most`
        bytes at most, or take `delay` seconds longer, or, with `hold`, as long as it lasts.

        A call fits if it is `call` on a path, seen from the root, that begins with `below`.
        """
        control = self._control
        control.first = 0
        control.below, control.call = below.encode(), CALLS.index(call)
        control.error, control.most, control.times = error, most, times
        control.delay_ns, control.hold = round(delay * 1e9), hold
        control.seen = control.hits = control.hit_call = 0
        control.hit_path = b""
        control.first = first  # last: from here on calls are looked at

    def end(self) -> None:
        """Storage is well again; calls that hang go on. What was counted stays."""
        self._control.first = 0
        self._control.hold = 0

    @contextmanager
    def hung(self, below: str = "", call: str = "any") -> Iterator[Self]:
        """Calls hang until the end of it."""
        self.begin(below=below, call=call, hold=True)
        try:
            yield self
        finally:
            self.end()

    @property
    def seen(self) -> int:
        """Calls that fitted, since `begin`."""
        return int(self._control.seen)

    @property
    def hits(self) -> int:
        return int(self._control.hits)

    @property
    def hit(self) -> tuple[str, str]:
        """The first call that was hit, and its path."""
        return CALLS[self._control.hit_call], os.fsdecode(self._control.hit_path)

    def wait_until_held(self, calls: int = 1) -> None:
        """That many calls hang right now."""
        wait_until(lambda: self._control.held >= calls, "a storage call that hangs")


@functools.cache
def compiled() -> Path:
    """The library; skips the test where it cannot be made."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to build the storage that fails")
    folder = tempfile.mkdtemp(prefix="oxidicom-faults-")
    atexit.register(shutil.rmtree, folder)
    library = Path(folder) / "storage_faults.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(_SOURCE), "-ldl"]
    subprocess.run(command, check=True)
    return library


@contextmanager
def storage_faults(folder: Path, root: Path) -> Iterator[StorageFaults]:
    """Their memory lies in `folder`, outside of the files root."""
    faults = StorageFaults(compiled(), folder / "storage_faults.memory", root)
    try:
        yield faults
    finally:
        faults.close()
