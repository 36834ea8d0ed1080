"""Signatures of processes in the names of unfinished files: host, process number, start time.

They distinguish a file left by a dead process from one that a live process is writing. Containers
that share a host name and a folder cannot be told apart: each may consider the
other's files left behind.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
from pathlib import Path
from typing import Final

_DEAD_STATES: Final = frozenset("ZXx")
"""States of a process in proc(5) that has ended: zombie and dead."""

_SIGNATURE: Final = re.compile(
    r"(?P<host>[A-Za-z0-9_.+]*)-(?P<pid>\d{1,9})-(?P<start>\d{1,19})-[0-9a-f]+(?:-|\.|$)", re.ASCII
)


def _host() -> str:
    # Host names that differ must differ here too: `a-b` becomes `a+b`, which is not `a_b`.
    return re.sub(r"[^A-Za-z0-9_.+]", "_", socket.gethostname().replace("-", "+"))


def start_of(pid: int) -> int | None:
    """Return the clock ticks from the boot to the start of a process.

    None if there is no such process, or if it has ended and its parent has not waited for it yet.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in _DEAD_STATES else int(fields[19])


def sign() -> str:
    """Return a new signature of this process, of letters, digits, `_`, `.`, `+` and `-`.

    Its random part tells apart two containers with the same host name and process number.
    """
    pid = os.getpid()
    return f"{_host()}-{pid}-{start_of(pid) or 0}-{secrets.token_hex(4)}"


def is_signed(name: str) -> bool:
    """Return whether `name` begins with a signature."""
    return _SIGNATURE.match(name) is not None


def is_left_behind(name: str) -> bool:
    """Return whether `name` begins with the signature of a process of this host that has ended."""
    match = _SIGNATURE.match(name)
    return (
        match is not None
        and match["host"] == _host()
        and start_of(int(match["pid"])) != int(match["start"])
    )
