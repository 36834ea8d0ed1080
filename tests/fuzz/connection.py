"""Whole connections, with a real storage behind them, on the fast path and off it."""

from __future__ import annotations

import asyncio
import atexit
import itertools
import os
import shutil
import tempfile
from collections import Counter, deque
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from oxidicom.store.executors import Completions, Done, InlineExecutor
from tests.fuzz.inputs import Script, cut, flags_cuts_payload
from tests.support import raw_peer as peer
from tests.support.data import Instance
from tests.support.line import CT, Line
from tests.support.raw_peer import DEFLATED, EXPLICIT, IMPLICIT
from tests.support.receiver import stored_data_set
from tests.unit.test_fastpath import seen

SERIES = ("1.2.826.7.1", "1.2.826.7.2")
CONTEXT_IDS = (1, 1, 1, 1, 5, 7, 3, 9)
SYNTAXES = {5: IMPLICIT, 7: DEFLATED}
MAX_LENGTHS = (0, 16384, 300, 61)
KEYWORDS = (
    "SOPClassUID", "SOPInstanceUID", "StudyDate", "AccessionNumber", "StudyDescription",
    "SeriesDescription", "PatientName", "PatientID", "StudyInstanceUID", "SeriesInstanceUID",
    "SeriesNumber", "InstanceNumber", "SpecificCharacterSet", "PatientAge",
)  # fmt: skip

LATE = 2
"""In an input's choices: writer threads have a turn too, which three more bits tell of."""

INSTANCE_REPORTS = {"InstanceStored", "InstanceRefused"}

_numbers = itertools.count()


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    atexit.register(loop.close)
    return loop


@cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="oxidicom-fuzz-", dir="/dev/shm"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


class LateExecutor:
    """Replaces a writer thread (WRITE_MODE=threads) that gets to its jobs when the input says so,
    and whose results the loop learns later still. A real thread would find less, and not again."""

    def __init__(self, completions: Completions) -> None:
        self._completions = completions
        self._jobs: deque[tuple[Callable[[], Any], Done]] = deque()
        self._ready: deque[tuple[Done, Any, BaseException | None]] = deque()

    def run(self, job: Callable[[], Any], done: Done) -> None:
        self._completions.outstanding += 1
        self._jobs.append((job, done))

    def work(self, jobs: int) -> None:
        """Deliver what was done before, then do some more."""
        self.deliver()
        for _ in range(min(jobs, len(self._jobs))):
            job, done = self._jobs.popleft()
            InlineExecutor().run(
                job, lambda *result, done=done: self._ready.append((done, *result))
            )

    def deliver(self) -> None:
        while self._ready:
            done, result, error = self._ready.popleft()
            self._completions.outstanding -= 1
            done(result, error)

    def finish(self) -> None:
        while self._jobs or self._ready:
            self.work(1)


def any_bytes(data: bytes) -> None:
    """Bytes of a connection: with the fast path it is as without, and cut anywhere as whole."""
    flags, cuts, payload = flags_cuts_payload(data)
    associated = not flags & 1
    # What comes with the request comes too early, so without an association the cuts matter.
    whole = [] if associated else cuts
    general = outcome(payload, whole, associated, fast_path=False)
    assert general == outcome(payload, cuts, associated, fast_path=True)
    if flags & LATE:
        late = outcome(payload, cuts, associated, fast_path=True, late=flags)
        assert whatever_the_time(late) == whatever_the_time(general)


def conversation(data: bytes) -> None:
    """Messages of a script, mostly well formed: the same, and files are what was sent."""
    flags, cuts, payload = flags_cuts_payload(data)
    sent = Sent(Script(payload))
    if flags & 1 and sent.stream:  # damaged, so that nothing is known of what was sent
        sent.stream[flags * 251 % len(sent.stream)] ^= flags
        sent.known = False
    places = sorted(place * 7 % (len(sent.stream) + 1) for place in cuts)
    known = sent.data_sets if sent.known else None
    stream = bytes(sent.stream)
    general = outcome(stream, [], True, fast_path=False, known=known)
    assert general == outcome(stream, places, True, fast_path=True, known=known)
    if flags & LATE:
        late = outcome(stream, places, True, fast_path=True, known=known, late=flags)
        assert whatever_the_time(late) == whatever_the_time(general)


class Sent:
    """Return the bytes of a script, and the data sets among them."""

    def __init__(self, script: Script) -> None:
        self.stream = bytearray()
        self.data_sets: set[bytes] = set()
        self.known = True
        steps = (
            self.store, self.store, self.store_value, self.store_bytes,
            self.echo, self.fragment, self.raw, self.end,
        )  # fmt: skip
        for _ in range(8):
            if script:
                steps[script.byte() % len(steps)](script)

    def store(self, script: Script) -> None:
        self._message(script, self._instance(script))

    def store_value(self, script: Script) -> None:
        """One value is the script's."""
        one = self._instance(script)
        one.values[KEYWORDS[script.byte() % len(KEYWORDS)]] = script.take(script.byte() % 80)
        self._message(script, one)

    def store_bytes(self, script: Script) -> None:
        """The data set's start is the script's."""
        one = self._instance(script)
        self._message(script, one, script.take(script.byte()))

    def echo(self, script: Script) -> None:
        request = peer.c_echo_rq(script.byte())
        self.stream += peer.p_data(peer.pdv(3, request, command=True, last=True))

    def fragment(self, script: Script) -> None:
        choice = script.byte()
        context_id = CONTEXT_IDS[choice >> 2 & 7]
        data = script.take(choice >> 5)
        self.stream += peer.p_data(
            peer.pdv(context_id, data, command=bool(choice & 1), last=bool(choice & 2))
        )
        self.known = False

    def raw(self, script: Script) -> None:
        self.stream += script.take(script.byte())
        self.known = False

    def end(self, script: Script) -> None:
        self.stream += (peer.release_rq(), peer.abort())[script.byte() & 1]

    def _instance(self, script: Script) -> Instance:
        choice = script.byte()
        series, number = SERIES[choice & 1], choice >> 1 & 7
        pixels = (0, 512, 2048, 40_000)[choice >> 4 & 3]
        return Instance(
            series=series, sop_instance=f"{series}.{number}", number=number, pixels=pixels
        )

    def _message(self, script: Script, one: Instance, start: bytes = b"") -> None:
        choice = script.byte()
        context_id = CONTEXT_IDS[choice & 7]
        data_set = start + one.encode(SYNTAXES.get(context_id, EXPLICIT))
        data_set = data_set[: len(data_set) - (choice >> 5) * 40]
        command = peer.c_store_rq(CT, one.sop_instance, choice)
        self.data_sets.add(data_set)
        self.stream += peer.store_message(
            context_id, command, data_set, max_length=MAX_LENGTHS[choice >> 3 & 3]
        )


def outcome(
    stream: bytes,
    cuts: list[int],
    associated: bool,
    *,
    fast_path: bool,
    known: set[bytes] | None = None,
    late: int = 0,
) -> tuple[object, ...]:
    """All that is seen of a connection of these bytes that is lost thereafter.

    `late`: choices that tell how many jobs writer threads do between receives, and whether the
    peer is gone before the rest; 0: all is written inline.
    `known`: all data sets sent, where that is sure; whatever has a final name is one of them.
    """
    root = _folder() / f"{os.getpid()}-{next(_numbers)}"
    line = Line(root, _loop(), fast_path=fast_path, mode="threads" if late else "inline")
    executor = LateExecutor(line.executors.completions)
    line.executors.next_thread = lambda: executor  # type: ignore[method-assign]
    try:
        if associated:
            line.associate()
        for part in cut(stream, cuts):
            if part:
                line.receive(part)
            executor.work(late >> 2 & 3)
        if not late >> 4 & 1:
            executor.finish()
        line.transport.closing = True
        line.protocol.connection_lost(None)
        executor.finish()
        result = whatever_the_cuts(seen(line))
    finally:
        line.close()
    for path in (root / "SERVICES").rglob("*"):
        assert not path.is_symlink()
        if path.is_file() and known is not None:
            assert path.suffix == ".dcm"
            assert stored_data_set(path) in known
    assert os.listdir(root / ".oxidicom/tmp") == []
    shutil.rmtree(root)
    return result


def whatever_the_time(everything: tuple[object, ...]) -> tuple[object, ...]:
    """Return what does not depend on timing: the files, and what is reported of each instance.
    Answers may change places, or come too late for a peer that has gone."""
    _, files, reports, *_ = everything
    assert isinstance(reports, list)
    return files, Counter(report for report in reports if report[0] in INSTANCE_REPORTS)


def whatever_the_cuts(everything: tuple[object, ...]) -> tuple[object, ...]:
    """Without the count of an association's bytes: what comes with the end is counted too."""
    sent, files, reports, *rest = everything
    assert isinstance(reports, list)
    counted = (report[:-1] if report[0] == "AssociationEnded" else report for report in reports)
    return sent, files, list(counted), *rest
