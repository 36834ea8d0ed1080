"""Names of unfinished files tell who writes them: host, process, its start.

So what a crash left is told from what another process is writing. Two containers of one host name
on one folder still take each other's for left behind.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
from pathlib import Path
from typing import Final

_DEAD: Final = frozenset("ZXx")
"""States of proc(5)."""

_SIGNATURE: Final = re.compile(
    r"(?P<host>[A-Za-z0-9_.+]*)-(?P<pid>\d{1,9})-(?P<start>\d{1,19})-[0-9a-f]+(?:-|\.|$)", re.ASCII
)


def _host() -> str:
    # As different as the names are that may be given: `a-b` is not `a_b`.
    return re.sub(r"[^A-Za-z0-9_.+]", "_", socket.gethostname().replace("-", "+"))


def start_of(pid: int) -> int | None:
    """Clock ticks since boot at which a process began; None if there is no such process, or only
    what is left of one until its parent looks at it."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in _DEAD else int(fields[19])


def sign() -> str:
    """A new signature of this process, of letters, digits, `_`, `.`, `+` and `-`.

    The random part keeps two containers of one host name and one process number apart.
    """
    pid = os.getpid()
    return f"{_host()}-{pid}-{start_of(pid) or 0}-{secrets.token_hex(4)}"


def is_signed(name: str) -> bool:
    return _SIGNATURE.match(name) is not None


def is_left_behind(name: str) -> bool:
    """Whether `name` begins with the signature of a process of this host that is no more."""
    match = _SIGNATURE.match(name)
    return (
        match is not None
        and match["host"] == _host()
        and start_of(int(match["pid"])) != int(match["start"])
    )
