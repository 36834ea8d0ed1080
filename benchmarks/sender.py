"""Senders that cost little more than their system calls: one process each, encoded beforehand."""

from __future__ import annotations

import array
import contextlib
import math
import multiprocessing
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import NamedTuple, Self

from benchmarks.association import TIMEOUT, Association, SendError
from benchmarks.encoding import EXPLICIT_VR_LITTLE_ENDIAN, associate_rq
from benchmarks.instances import encode_series
from benchmarks.timetable import Timetable, sleep_until, wait_exactly

HOPELESS = 5.0
"""Seconds behind its timetable at which an open-loop sender gives up."""

HEAD_START = 0.01
"""Seconds from the start signal until the first instance is due: by then all senders are awake."""

Store = Callable[[int], None]
"""A function that sends the instance of a number. It raises OSError or SendError where the instance
is not stored."""


class Work(NamedTuple):
    """The work of one sender."""

    series: int
    instances: int
    """Greatest number of instances."""
    size: int
    """Bytes of one data set."""
    seconds: float = math.inf
    """Seconds after which no further instance is begun."""
    transfer_syntax: str = EXPLICIT_VR_LITTLE_ENDIAN
    other_contexts: tuple[str, ...] = ()
    """Abstract syntaxes that are proposed beside the one that is used."""
    association_each: bool = False
    """Whether each instance has an association of its own."""
    nagle: bool = False
    timetable: Timetable | None = None
    """Timetable of the open loop; without one the next instance follows the answer to the last."""


class Sent(NamedTuple):
    """What one sender measured; times are of the machine's monotonic clock."""

    began: float
    ended: float
    latencies: bytes
    """Latency of each instance that was stored, as doubles, in seconds."""
    error: str | None


class Load(NamedTuple):
    """What the senders of one trial measured together."""

    seconds: float
    latencies: list[float]
    errors: list[str]
    fragment: int
    """Greatest number of bytes of a P-DATA-TF's variable field that was sent."""


class Senders:
    """Associations at one receiver, each in a process of its own.

    Entering associates and encodes everything, `send` only sends, leaving releases. So what is
    measured around `send` is the receiving of instances and nothing else.
    """

    def __init__(self, port: int, works: list[Work]) -> None:
        context = multiprocessing.get_context("fork")
        self._children = []
        self._pipes: list[Connection] = []
        for work in works:
            ours, theirs = context.Pipe()
            self._pipes.append(ours)
            arguments = (port, work, theirs, self._pipes)
            self._children.append(context.Process(target=_child, args=arguments, daemon=True))
            self._children[-1].start()
            theirs.close()

    def __enter__(self) -> Self:
        heard = self._hear()
        self._errors = [str(said) for said in heard if not isinstance(said, int)]
        self._fragment = max((said for said in heard if isinstance(said, int)), default=0)
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in self._pipes:
            pipe.close()  # the senders release their associations then
        for child in self._children:
            child.join(TIMEOUT)
            if child.is_alive():
                child.kill()
                child.join()
            child.close()

    def send(self) -> Load:
        """Send everything, or nothing where an association was not accepted."""
        if self._errors:
            return Load(0.0, [], self._errors, self._fragment)
        start = time.monotonic() + HEAD_START
        for pipe in self._pipes:
            pipe.send(start)
        sent = [said for said in self._hear() if isinstance(said, Sent)]
        errors = [one.error for one in sent if one.error]
        if len(sent) < len(self._pipes):
            errors.append("a sender ended early")
        if not sent:
            return Load(0.0, [], errors, self._fragment)
        latencies = array.array("d")
        for one in sent:
            latencies.frombytes(one.latencies)
        seconds = max(one.ended for one in sent) - min(one.began for one in sent)
        return Load(seconds, latencies.tolist(), errors, self._fragment)

    def _hear(self) -> list[object]:
        said: list[object] = []
        for pipe in self._pipes:
            try:
                said.append(pipe.recv())
            except EOFError:
                said.append("a sender ended early")
        return said


def _child(port: int, work: Work, pipe: Connection, inherited: list[Connection]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    for other in inherited:  # otherwise no sender would see the parent close its end
        other.close()
    request = associate_rq("ChRIS", "BENCHMARK", work.transfer_syntax, work.other_contexts)
    try:
        with Association(port, request, work.nagle) as association:
            limit = association.max_length
            arguments = (work.series, work.instances, work.size, limit, work.transfer_syntax)
            series = encode_series(*arguments)
            if not work.association_each:
                _answer(pipe, limit, work, lambda number: association.store(series, number))
                return

        def store_alone(number: int) -> None:
            with Association(port, request, work.nagle) as own:
                own.store(series, number)

        _answer(pipe, limit, work, store_alone)
    except EOFError:
        return
    except (OSError, SendError, ValueError) as error:
        pipe.send(f"no association: {error}")


def _answer(pipe: Connection, limit: int, work: Work, store: Store) -> None:
    """Report that all is ready, send when told to, and return when the pipe is closed."""
    pipe.send(limit)
    pipe.send(_send(work, store, pipe.recv()))
    with contextlib.suppress(EOFError):
        pipe.recv()


def _send(work: Work, store: Store, start: float) -> Sent:
    latencies = array.array("d")
    error = None
    stop = start + work.seconds
    if work.timetable:
        wait_exactly()
    sleep_until(start)
    began = now = time.monotonic()
    try:
        for number in range(work.instances):
            since = work.timetable.due(number, start) if work.timetable else now
            if since >= stop:
                break
            sleep_until(since)
            if now - since > HOPELESS:
                raise SendError(f"{now - since:.1f} s behind the timetable")
            store(number)
            now = time.monotonic()
            latencies.append(now - since)
    except (OSError, SendError) as fault:
        error = f"after {len(latencies)} instances: {fault}"
    return Sent(began, time.monotonic(), latencies.tobytes(), error)
