"""`oxidicom watch` on a real nats-server: our receiver's messages, and the reference's."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nats
import pytest

from tests.support.brokers import NatsServer, find_program
from tests.support.commands import Oxidicom
from tests.support.data import Instance
from tests.support.lonk import DONE, count, error
from tests.support.ports import free_port
from tests.support.raw_peer import RawPeer
from tests.support.receiver import PROJECT, Receiver
from tests.support.storing import store

STUCK = 60.0
"""Seconds after which something that was to happen does not."""


class Watching:
    """`oxidicom watch` in a process of its own; its output is read a line at a time."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "oxidicom", "watch", *arguments],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT / "src"), **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.out: queue.Queue[str] = queue.Queue()
        self.err: queue.Queue[str] = queue.Queue()
        self._readers = [
            threading.Thread(target=self._read, args=each, daemon=True)
            for each in ((self.process.stdout, self.out), (self.process.stderr, self.err))
        ]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(stream: Any, into: queue.Queue[str]) -> None:
        with stream:
            for line in stream:
                into.put(line.rstrip("\n"))

    def says(self, words: str) -> None:
        """On stderr, some time."""
        while words not in (line := self.err.get(timeout=STUCK)):
            assert line

    def json(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.out.get(timeout=STUCK))
        return value

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(STUCK)


@contextlib.contextmanager
def watching(*arguments: str, **environment: str) -> Iterator[Watching]:
    watch = Watching(*arguments, **environment)
    try:
        yield watch
    finally:
        watch.process.kill()
        watch.process.wait()
        for reader in watch._readers:
            reader.join(STUCK)


def publish(url: str, *messages: tuple[str, bytes]) -> None:
    async def run() -> None:
        client = await nats.connect(url)
        for subject, payload in messages:
            await client.publish(subject, payload)
        await client.flush()
        await client.close()

    asyncio.run(run())


def test_a_series_of_our_receiver(nats_server: NatsServer, tmp_path: Path) -> None:
    settings = {
        "OXIDICOM_NATS_ADDRESS": nats_server.address,
        "OXIDICOM_ROOT_SUBJECT": "watched.here",
        "OXIDICOM_PROGRESS_INTERVAL": "0s",
    }
    series = Instance().series
    with watching("--json", **settings) as watch:
        watch.says("listening to watched.here.*.*")
        with Receiver(tmp_path, **settings) as receiver:
            with RawPeer(receiver.port) as peer:
                peer.associate(calling=b"CT 1")
                for number in range(3):
                    store(peer, Instance(series=series, number=number))
                peer.release()
            heard = [watch.json()]
            while heard[-1]["type"] != "done":
                heard.append(watch.json())
        assert watch.interrupt() == 130
    assert {(each["aet"], each["series_instance_uid"]) for each in heard} == {("CT_1", series)}
    assert [each["count"] for each in heard[:-1]][-1] == 3
    assert heard[0]["type"] == "count"
    assert heard[0]["at"] > 1e9


def test_messages_of_the_reference_are_shown(nats_server: NatsServer) -> None:
    """It has other error texts, sends every count, and may send unknown payloads."""
    with watching("--nats", nats_server.url, "--json", "--aet", "MR.1") as watch:
        watch.says("listening to oxidicom.MR_1.*")
        publish(
            nats_server.url,
            ("oxidicom.CT.1_2", count(1)),
            ("oxidicom.MR_1.1_2_840", count(1)),
            ("oxidicom.MR_1.1_2_840", error("DICOM file does not have the required tag: X")),
            ("oxidicom.MR_1.UNKNOWN", b"\x07"),
            ("oxidicom.MR_1.1_2_840", DONE),
        )
        heard = [watch.json() for _ in range(4)]
        assert watch.interrupt() == 130
    for each in heard:
        assert each.pop("at") > 0
        assert each.pop("aet") == "MR_1"
    assert heard == [
        {"series_instance_uid": "1.2.840", "type": "count", "count": 1},
        {
            "series_instance_uid": "1.2.840",
            "type": "error",
            "error": "DICOM file does not have the required tag: X",
        },
        {"series_instance_uid": "UNKNOWN", "type": "unknown"},
        {"series_instance_uid": "1.2.840", "type": "done"},
    ]


def test_it_waits_for_nats_and_connects_again(tmp_path: Path) -> None:
    if find_program(NatsServer.program) is None:
        pytest.skip("nats-server is not installed")
    server = NatsServer(tmp_path / "nats")
    with watching("--nats", server.url) as watch:
        watch.says("NATS unreachable")
        for number in (1, 2):
            with server:
                watch.says("listening to")
                publish(server.url, ("oxidicom.CT.1_2", count(number)))
                line = watch.out.get(timeout=STUCK)
                assert line.endswith(f"CT  1.2  {number} instances")
            watch.says("NATS unreachable")
        assert watch.interrupt() == 130


def test_a_closed_pipe_on_stdout_ends_it(nats_server: NatsServer) -> None:
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "oxidicom", "watch", "--json", "--nats", nats_server.url],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT / "src")},
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    assert process.stderr is not None
    with process.stderr:
        assert "listening" in process.stderr.readline()
        os.close(reader)
        publish(nats_server.url, ("oxidicom.CT.1_2", DONE))
        assert process.wait(STUCK) == 1
        assert process.stderr.read() == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "no NATS server is set: give --nats, or set OXIDICOM_NATS_ADDRESS"),
        (("--nats", "http://localhost"), "OXIDICOM_NATS_ADDRESS=http://localhost: expected"),
        (("--nats", f"localhost:{free_port()}", "--aet", ""), "an AE title has 1 to 16"),
        (("--rows", "0"), "rows must be a whole number from 1"),
    ],
)
def test_invalid_arguments_give_status_2(
    arguments: tuple[str, ...],
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OXIDICOM_NATS_ADDRESS", raising=False)
    done = Oxidicom(capsys)("watch", *arguments)
    assert (done.status, done.out) == (2, "")
    assert words in done.err
