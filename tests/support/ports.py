"""Ports of 127.0.0.1 for servers that must be given theirs, and ports where nothing listens.

They are outside of the range from which the kernel assigns ports: by the time that the server
starts, another process or connection could have got the same port. Each of pytest-xdist's processes
has a share of them.
"""

from __future__ import annotations

import itertools
import os
import random
import socket
from pathlib import Path

_KERNELS = Path("/proc/sys/net/ipv4/ip_local_port_range")
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))

_share = list(range(10_000 + _WORKER, int(_KERNELS.read_text().split()[0]), _WORKERS))
# Another run of the tests may be under way.
_start = random.SystemRandom().randrange(len(_share))
_next = itertools.cycle([*_share[_start:], *_share[:_start]])


def free_port() -> int:
    """Return a port, another one each time."""
    while True:
        port = next(_next)
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue
