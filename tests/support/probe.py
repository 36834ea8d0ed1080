"""Measures how long another peer waits for its C-ECHO and C-STORE responses during a test.

It runs in a process of its own, so that the tests' own work is not measured: `python -m
tests.support.probe PORT` sends until its standard input ends, then writes seconds.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from typing import Self

from tests.support.data import Instance
from tests.support.raw_peer import EXPLICIT, RawPeer
from tests.support.receiver import PROJECT

PAUSE = 0.004
"""Seconds between two messages, so that the probe itself is no load."""


def main(port: int) -> None:
    over = threading.Event()

    def wait_for_end() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=wait_for_end, daemon=True).start()
    waits = []
    series = Instance().series
    with RawPeer(port, timeout=60) as peer:
        peer.associate()
        print("sending", flush=True)
        number = 0
        while not over.wait(PAUSE):
            number += 1
            began = time.perf_counter()
            peer.echo()
            waits.append(time.perf_counter() - began)
            instance = Instance(series=series, number=number, pixels=20_000)
            data_set = instance.encode(EXPLICIT)
            began = time.perf_counter()
            assert peer.store(instance.sop_instance, data_set).status == 0
            waits.append(time.perf_counter() - began)
        peer.release()
    print(json.dumps(waits))


class Probe:
    """A probe that runs while it is entered. Then `waits` holds seconds in ascending order."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.waits: list[float] = []

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(self._port)],
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "sending\n"
        return self

    def __exit__(self, *_: object) -> None:
        answer, _errors = self._process.communicate(timeout=60)
        assert self._process.returncode == 0
        self.waits = sorted(json.loads(answer))

    @property
    def p99(self) -> float:
        return self.waits[len(self.waits) * 99 // 100]

    def __str__(self) -> str:
        half, most = self.waits[len(self.waits) // 2], self.waits[-1]
        return (
            f"p50 {half * 1e3:.2f}, p99 {self.p99 * 1e3:.2f}, worst {most * 1e3:.1f} ms "
            f"of {len(self.waits)}"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]))
