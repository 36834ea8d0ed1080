"""Names of threads as `ps -L`, `top -H` and debuggers show them.

Before Python 3.14 `threading` does not pass a thread's name to the kernel, which shows every thread
under the name of the thread that started it.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable


def name_this_thread(name: str) -> None:
    """Give the calling thread a name in the kernel, which keeps its first 15 bytes.

    The name of the main thread is that of the process. Errors are ignored: where /proc is missing
    or read-only, the receiver works without names.
    """
    with contextlib.suppress(OSError):
        path = f"/proc/self/task/{threading.get_native_id()}/comm"
        with open(path, "w", encoding="utf-8") as comm:
            comm.write(name)


class NamedThread(threading.Thread):
    """A thread whose name in the kernel is its `name`, cut to 15 bytes."""

    def run(self) -> None:
        name_this_thread(self.name)
        super().run()


def pool_thread_namer(name: str) -> Callable[[], None]:
    """Return an `initializer` that names the threads of one pool `name-0`, `name-1` and so on."""
    numbers = itertools.count()
    return lambda: name_this_thread(f"{name}-{next(numbers)}")
