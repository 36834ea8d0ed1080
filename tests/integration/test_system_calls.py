"""System calls of small instances, counted by strace on the receiver as its users run it."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.data import Instance
from tests.support.raw_peer import (
    CT_IMAGE_STORAGE,
    EXPLICIT,
    Context,
    RawPeer,
    c_store_rq,
    store_message,
)
from tests.support.receiver import Receiver

INSTANCES = 200

EACH = ("openat", "writev", "openat2", "renameat", "sendto")
"""Calls that occur exactly once for an instance: a file made, written whole, its folder, its name,
the response."""


@contextmanager
def counted(pid: int, into: Path) -> Iterator[None]:
    """Count the calls of all threads, and write them to `into` at the end."""
    strace = subprocess.Popen(
        ["strace", "-f", "-c", "-U", "name,calls", "-o", str(into), "-p", str(pid)],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert strace.stderr is not None
    attached = strace.stderr.readline()
    reader = threading.Thread(target=strace.stderr.read, daemon=True)
    reader.start()
    try:
        if "attached" not in attached:
            pytest.fail(f"strace: {attached}")
        yield
    finally:
        strace.send_signal(signal.SIGINT)
        strace.wait(10)
        reader.join(10)
        strace.stderr.close()


def test_a_small_instance_takes_a_dozen_system_calls(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    # One more than are counted: the peer knows of the last call before strace does.
    instances = [Instance(series="1.2.826.8", number=n) for n in range(INSTANCES + 6)]
    with Receiver(root, OXIDICOM_WRITE_MODE="inline") as receiver, RawPeer(receiver.port) as sender:
        sender.associate([Context(1, CT_IMAGE_STORAGE, [EXPLICIT])])

        def store(one: Instance) -> None:
            command = c_store_rq(one.sop_class, one.sop_instance)
            sender.send(store_message(1, command, one.encode(EXPLICIT)))
            assert sender.response().status == 0

        for one in instances[:5]:
            store(one)
        with counted(receiver.process.pid, tmp_path / "calls"):
            for one in instances[5:]:
                store(one)
        sender.release()
    table = (tmp_path / "calls").read_text()
    calls = {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}
    calls.pop("total", None)
    for name in EACH:
        assert INSTANCES <= calls[name] <= INSTANCES + 10, (name, calls)
    assert INSTANCES * 2 <= calls["close"] <= INSTANCES * 2 + 10, "the file and its folder"
    # With a receive and the wait for it; the control plane's own, a hundred times a second.
    own = sum(count for name, count in calls.items() if name not in ("futex", "getpid"))
    assert own <= INSTANCES * 12 + 500, calls
