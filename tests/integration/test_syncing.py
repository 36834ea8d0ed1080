"""OXIDICOM_FSYNC seen from below: strace tells in which order the receiver syncs, renames and
answers, holds syncs up as a slow device does, and makes them fail."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.data import Instance
from tests.support.raw_peer import EXPLICIT, RawPeer
from tests.support.receiver import Receiver

SENDERS = 8
EACH = 10
SLOW = "inject=fsync:delay_enter=10000"
"""Microseconds: as a disk that turns."""

CALL = re.compile(
    r"(?P<thread>\d+) +(?:<\.\.\. (?P<resumed>\w+) resumed>(?P<tail>.*)"
    r"|(?P<name>\w+)\((?P<arguments>.*?)(?P<unfinished> <unfinished \.\.\.>)?)$"
)
SUCCESS = re.compile(r"\) += 0\b")
FOLDER = re.compile(r"\d+<(?P<path>[^>]*)>")
RESPONSE = re.compile(r'\d+<socket:[^>]*>, (?:\[\{iov_base=)?"\\4')
"""A P-DATA-TF, by whichever call the loop sends it."""
RENAME = re.compile(r'\d+<[^>]*>, "(?P<part>[^"]*)", \d+<(?P<folder>[^>]*)>, "(?P<name>[^"]*)"')


@contextmanager
def traced(pid: int, into: Path, *options: str) -> Iterator[None]:
    """Trace the system calls of all threads into the file `into`."""
    strace = subprocess.Popen(
        ["strace", "-f", "-y", "-s", "300", *options, "-o", str(into), "-p", str(pid)],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert strace.stderr is not None
    attached = strace.stderr.readline()
    while "attached" not in attached and attached:
        attached = strace.stderr.readline()
    reader = threading.Thread(target=strace.stderr.read, daemon=True)
    reader.start()
    try:
        if not attached:
            pytest.fail("strace could not attach")
        yield
    finally:
        strace.send_signal(signal.SIGINT)
        strace.wait(10)
        reader.join(10)
        strace.stderr.close()


def calls_of(log: str) -> Iterator[tuple[str, str, str, bool]]:
    """(thread, name, arguments, whether it ends here) in the order in which they were seen; one
    that others interrupt comes twice, where it begins and where it ends."""
    begun: dict[str, str] = {}
    for line in log.splitlines():
        match = CALL.match(line)
        if match is None:
            continue
        if match["resumed"]:
            yield (
                match["thread"],
                match["resumed"],
                begun.pop(match["thread"]) + match["tail"],
                True,
            )
            continue
        yield match["thread"], match["name"], match["arguments"], False
        if match["unfinished"]:
            begun[match["thread"]] = match["arguments"]
        else:
            yield match["thread"], match["name"], match["arguments"], True


class Ledger:
    """The parts of the instances that are on the medium, according to the calls so far."""

    def __init__(self, *, files: bool = True) -> None:
        self._files = files
        """Whether the files' own syncs are in the log."""
        self.synced_files: set[str] = set()
        self.placed: dict[str, set[str]] = {}
        """By folder: renamed into it, not synced yet."""
        self.covered: dict[str, set[str]] = {}
        """By thread: what its sync that has begun will have put there."""
        self.durable = 0
        self.folder_syncs = 0
        self.failures = 0
        self.answered = 0

    def read(self, log: str) -> None:
        for thread, name, arguments, ends in calls_of(log):
            if name == "fsync":
                self.on_sync(thread, arguments, ends)
            elif name == "renameat" and ends:
                self.on_rename(arguments)
            elif not ends and RESPONSE.match(arguments):
                self.answered += 1
                assert self.answered <= self.durable, "answered before it was on the medium"

    def on_sync(self, thread: str, arguments: str, ends: bool) -> None:
        match = FOLDER.match(arguments)
        assert match is not None, arguments
        path = match["path"]
        if path.endswith(".part"):
            if ends and SUCCESS.search(arguments):
                self.synced_files.add(Path(path).name)
        elif not ends:
            self.covered[thread] = set(self.placed.get(path, ()))
        elif path in self.placed:
            names = self.covered.pop(thread) & self.placed[path]
            self.placed[path] -= names
            if SUCCESS.search(arguments):
                self.folder_syncs += 1
                self.durable += len(names)
            else:
                self.failures += 1

    def on_rename(self, arguments: str) -> None:
        match = RENAME.match(arguments)
        assert match is not None, arguments
        assert match["part"] in self.synced_files or not self._files, "renamed before it was synced"
        self.placed.setdefault(match["folder"], set()).add(match["name"])


def send_all(receiver: Receiver, batches: list[list[Instance]]) -> list[int]:
    """Each batch through an association of its own, all at once; the statuses."""
    statuses: list[int] = []

    def send(batch: list[Instance]) -> None:
        with RawPeer(receiver.port) as peer:
            peer.associate()
            statuses.extend(
                peer.store(each.sop_instance, each.encode(EXPLICIT)).status for each in batch
            )
            peer.release()

    threads = [threading.Thread(target=send, args=[batch]) for batch in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(statuses) == sum(map(len, batches))
    return statuses


def one_series(first: int = 0) -> list[list[Instance]]:
    return [
        [
            Instance(
                series="1.2.826.7",
                sop_instance=f"1.2.826.7.{first + sender * EACH + number}",
                number=first + sender * EACH + number,
            )
            for number in range(EACH)
        ]
        for sender in range(SENDERS)
    ]


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    root = tmp_path / "root"
    root.mkdir()
    with Receiver(root, OXIDICOM_FSYNC="true", OXIDICOM_SERIES_SETTLE="1h") as receiver:
        # The series' folder is there, and all threads are.
        assert set(send_all(receiver, one_series(1000))) == {0}
        yield receiver


def test_file_then_name_then_folder_then_answer(receiver: Receiver, tmp_path: Path) -> None:
    """Threads that wait at the same time share the sync of the folder."""
    log = tmp_path / "calls"
    options = ("-e", "trace=fsync,renameat,sendto,sendmsg,write,writev", "-e", SLOW)
    with traced(receiver.process.pid, log, *options):
        assert set(send_all(receiver, one_series())) == {0}
    ledger = Ledger()
    ledger.read(log.read_text())
    assert ledger.durable == SENDERS * EACH
    assert ledger.answered == SENDERS * EACH
    assert SENDERS < ledger.folder_syncs <= SENDERS * EACH * 2 // 3


def test_a_folder_sync_that_fails_refuses_those_it_concerns(
    receiver: Receiver, tmp_path: Path
) -> None:
    """Every caller waits for the sync, and those that it succeeded for have whole files."""
    (folder,) = {os.path.dirname(path) for path in receiver.files()}
    log = tmp_path / "calls"
    # strace counts by thread.
    failing = "inject=fsync:error=EIO:delay_enter=10000:when=2"
    with traced(
        receiver.process.pid, log, "-P", folder, "-e", "trace=fsync,renameat", "-e", failing
    ):
        statuses = send_all(receiver, one_series())
    ledger = Ledger(files=False)
    ledger.read(log.read_text())
    assert set(statuses) == {0, 0x0110}
    assert statuses.count(0) <= ledger.durable
    assert 1 <= ledger.failures <= statuses.count(0x0110) <= ledger.failures * SENDERS
    whole = [
        each
        for batch in one_series()
        for each in batch
        if any(path.name.endswith(f"-{each.sop_instance}.dcm") for path in receiver.files())
    ]
    assert statuses.count(0) <= len(whole)
    for each in whole:
        assert receiver.data_set_of(each.sop_instance) == each.encode(EXPLICIT)
    assert set(send_all(receiver, one_series())) == {0}, "the next are stored"


def test_a_file_sync_that_fails_refuses_that_one(receiver: Receiver, tmp_path: Path) -> None:
    before, failed, after = one_series()[0][:3]
    with RawPeer(receiver.port) as peer:
        peer.associate()

        def store(each: Instance) -> int:
            return peer.store(each.sop_instance, each.encode(EXPLICIT)).status

        assert store(before) == 0
        options = ("-e", "trace=fsync", "-e", "inject=fsync:error=EIO:when=1")
        with traced(receiver.process.pid, tmp_path / "calls", *options):
            assert store(failed) == 0x0110
        assert (tmp_path / "calls").read_text().count("fsync(") == 1, "never tried again"
        assert store(after) == 0
        peer.release()
    assert not [
        path for path in receiver.files() if path.name.endswith(f"-{failed.sop_instance}.dcm")
    ]
    assert list((receiver.root / ".oxidicom/tmp").iterdir()) == []
