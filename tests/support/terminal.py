"""Runs a command on a terminal of 100 columns and reads what it draws."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from typing import Final

from tests.support.receiver import PROJECT

_CONTROL: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def drawn(
    *arguments: object,
    interrupt: Callable[[str], bool] = lambda text: False,
    timeout: float = 60,
    **environment: str,
) -> tuple[int, str]:
    """Return the exit status, and the text drawn, without colours and cursor movements.

    Ctrl-C is sent as soon as `interrupt` returns True for the text drawn so far.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "oxidicom", *map(str, arguments)],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(PROJECT / "src"),
            "TERM": "xterm-256color",
            **environment,
        },
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    text = ""
    interrupted = False
    deadline = time.monotonic() + timeout
    try:
        with contextlib.suppress(OSError):  # on Linux, reading fails when the other side is closed
            while data := os.read(ours, 65536):
                text += data.decode("utf-8", "replace")
                if not interrupted and interrupt(_CONTROL.sub("", text)):
                    interrupted = True
                    process.send_signal(signal.SIGINT)
                assert time.monotonic() < deadline, text
        return process.wait(timeout), _CONTROL.sub("", text)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
