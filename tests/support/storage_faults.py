"""Storage that fails, hangs or writes short on demand, for receivers that a test starts.

A small preloaded library (storage_faults.c) intercepts calls of the C library, those of Python and
of compiled code alike. The test controls it through memory shared with the receiver and all its
workers, so that one process serves any number of cases.
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
ALWAYS: Final = -1
"""As `times`: the fault does not end."""
_SOURCE: Final = Path(__file__).with_suffix(".c")


class _Control(ctypes.Structure):
    """`struct control` of storage_faults.c."""

    _fields_ = (
        ("root", ctypes.c_char * 512),
        ("below", ctypes.c_char * 512),
        ("call", ctypes.c_int32),
        ("error", ctypes.c_int32),
        ("max_bytes", ctypes.c_int32),
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
    """Controls the faults of a receiver that was started with `environment`."""

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
        times: int = ALWAYS,
        max_bytes: int = 0,
        delay: float = 0,
        hold: bool = False,
    ) -> None:
        """Disturb `times` matching calls, beginning with the `first` one.

        They fail with `error`, or write at most `max_bytes`, or take `delay` seconds longer, or
        with `hold` until `end`. A call matches if it is `call` on a path, relative to the root,
        that begins with `below`.
        """
        control = self._control
        control.first = 0
        control.below, control.call = below.encode(), CALLS.index(call)
        control.error, control.max_bytes, control.times = error, max_bytes, times
        control.delay_ns, control.hold = round(delay * 1e9), hold
        control.seen = control.hits = control.hit_call = 0
        control.hit_path = b""
        control.first = first  # set last: it makes the library look at calls

    def end(self) -> None:
        """End the faults and let calls that hang continue. The counts are kept."""
        self._control.first = 0
        self._control.hold = 0

    @contextmanager
    def hung(self, below: str = "", call: str = "any") -> Iterator[Self]:
        """Let matching calls hang until the end of the `with` block."""
        self.begin(below=below, call=call, hold=True)
        try:
            yield self
        finally:
            self.end()

    @property
    def seen(self) -> int:
        """Matching calls since `begin`."""
        return int(self._control.seen)

    @property
    def hits(self) -> int:
        """Disturbed calls since `begin`."""
        return int(self._control.hits)

    @property
    def hit(self) -> tuple[str, str]:
        """The first disturbed call, and its path."""
        return CALLS[self._control.hit_call], os.fsdecode(self._control.hit_path)

    def wait_until_held(self, calls: int = 1) -> None:
        """Wait until that many calls hang."""
        wait_until(lambda: self._control.held >= calls, "a storage call that hangs")


@functools.cache
def compiled() -> Path:
    """Return the library; skip the test where it cannot be built."""
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
    """Yield the faults of a files root. Their shared memory is a file in `folder`, elsewhere."""
    faults = StorageFaults(compiled(), folder / "storage_faults.memory", root)
    try:
        yield faults
    finally:
        faults.close()
