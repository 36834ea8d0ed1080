"""`oxidicom status` of a running receiver, through its admin endpoint."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import Oxidicom
from tests.support.data import Instance
from tests.support.raw_peer import RawPeer
from tests.support.receiver import PROJECT, Receiver, wait_until
from tests.support.storing import store

CPU_LIMIT = 0.4
"""Seconds for one health check; it takes a quarter of that on a machine with nothing else to do."""


def test_a_receiver_that_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    oxidicom = Oxidicom(capsys)
    series = Instance().series
    with (
        Receiver(tmp_path, OXIDICOM_ADMIN_PORT="0", OXIDICOM_SERIES_SETTLE="1h") as receiver,
        RawPeer(receiver.port) as peer,
    ):
        url = f"http://127.0.0.1:{receiver.admin_port}"
        peer.associate(calling=b"CT1")
        store(peer, Instance(series=series))

        def counted() -> bool:
            told = oxidicom("status", "--url", url, "--json")
            return bool(told.json["totals"]["instances"] == 1)

        wait_until(counted, "the instance to be counted")
        shown = oxidicom("status", "--url", url)
        found = oxidicom("status", "--url", url, "--json")
        before = cpu_of_children()
        done = subprocess.run(
            [sys.executable, "-m", "oxidicom", "status", "--quiet", "--url", url],
            env={"PYTHONPATH": str(PROJECT / "src")},
            capture_output=True,
            check=False,
        )
        cpu = cpu_of_children() - before
        peer.release()
    assert (shown.status, shown.err) == (0, "")
    assert "ChRIS: ready, oxidicom" in shown.out
    assert "CT1 → ChRIS" in shown.out
    assert series in shown.out
    assert found.json["totals"]["instances"] == 1
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert cpu < CPU_LIMIT


def cpu_of_children() -> float:
    """Return the number of associations that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
