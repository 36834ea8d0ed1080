"""Processes that tests start."""

from __future__ import annotations

import shutil
import threading


def dying_with_us(command: list[str]) -> list[str]:
    """Return the command so that its process gets SIGTERM when this one dies, however it dies.

    pytest-xdist kills its processes, which could leave others behind. The kernel sends the signal
    when the starting thread ends, so a command of another thread than the main one stays as it is.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None or threading.current_thread() is not threading.main_thread():
        return command
    return [setpriv, "--pdeathsig", "TERM", *command]
