"""One series, one folder, in every worker (decision 26): who claims a series' names first, names
its folder for all.

A worker asks before it stores the first instance of a series, and says so when nothing that it
stored or stores binds any longer. The claims of all workers are kept by the notifier, which
answers one after the other; a worker that claims binds from the answer on, so that there is no
moment at which two of them use two folders for one reception.
"""

from __future__ import annotations

import logging
import socket
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

import msgspec

from oxidicom.logevents import event
from oxidicom.ports import SeriesInfo, SeriesKey

logger = logging.getLogger("oxidicom.workers")

PATIENCE: Final = 1.0
"""Seconds for an answer, which takes some 100 µs."""
IMPATIENCE: Final = 0.02
"""Seconds, while the last one did not come in time."""

_LONGEST: Final = 2 << 20
"""Bytes; 17 values of 64 KiB, as UTF-8 of the widest kind, are less."""


class FolderClaims:
    """The notifier's side: which series each worker has claimed, and what they are called.

    `open_series` says how a series that is open is called, be it one that a crash or a worker's
    death has left without anybody who claims it.
    """

    def __init__(self, open_series: Callable[[SeriesKey], SeriesInfo | None]) -> None:
        self._open_series = open_series
        self._claims: dict[SeriesKey, tuple[SeriesInfo, Counter[str]]] = {}

    def __len__(self) -> int:
        return len(self._claims)

    def claim(self, worker: str, series: SeriesInfo) -> SeriesInfo:
        key = series.key
        named, holders = self._claims.get(key, (series, Counter[str]()))
        if not any(holder != worker for holder in holders):
            # What it claimed itself before binds no longer, or it would not ask.
            named = self._open_series(key) or series
        # Counted: that an earlier claim is over may be heard of after the next one.
        holders[worker] += 1
        self._claims[key] = named, holders
        return named

    def release(self, worker: str, key: SeriesKey) -> None:
        """One claim of the worker's is over."""
        if key in self._claims:
            _, holders = self._claims[key]
            holders[worker] -= 1
            self._tidy(key)

    def forget(self, worker: str) -> None:
        """It has died; what it left open must be known to `open_series`."""
        for key in [key for key, (_, holders) in self._claims.items() if worker in holders]:
            del self._claims[key][1][worker]
            self._tidy(key)

    def _tidy(self, key: SeriesKey) -> None:
        _, holders = self._claims[key]
        for worker in [worker for worker, number in holders.items() if number <= 0]:
            del holders[worker]
        if not holders:
            del self._claims[key]


class ClaimServer:
    """Answers one worker's claims, on the notifier's main loop."""

    def __init__(self, end: socket.socket, worker: str, names: FolderClaims) -> None:
        end.setblocking(False)
        self._socket = end
        self._worker = worker
        self._names = names
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(tuple[int, SeriesInfo]).decode

    def fileno(self) -> int:
        return self._socket.fileno()

    def answer(self) -> bool:
        """One claim; False: the worker is gone."""
        try:
            request = self._socket.recv(_LONGEST)
            if not request:
                return False
            number, series = self._decode(request)
            self._socket.send(self._encode((number, self._names.claim(self._worker, series))))
        except BlockingIOError:
            pass  # it will go on with its own names
        except OSError:
            return False
        return True

    def close(self) -> None:
        self._socket.close()


class ClaimClient:
    """A worker's side (ports.FolderNames)."""

    def __init__(self, end: socket.socket, released: Callable[[SeriesKey], None]) -> None:
        self._socket = end
        self._released = released
        self._number = 0
        self._patience = PATIENCE
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(tuple[int, SeriesInfo]).decode

    def claim(self, series: SeriesInfo) -> SeriesInfo:
        """Waits for the notifier, with the whole loop; never raises."""
        self._number += 1
        try:
            named = self._ask(series)
        except (OSError, ValueError) as error:
            self._patience = IMPATIENCE
            event(
                logger,
                logging.ERROR,
                "folder claim timed out; using this worker's folder name",
                error=error,
                SeriesInstanceUID=series.series_instance_uid,
            )
            return series
        self._patience = PATIENCE
        # The one that is known already is the one that is compared with.
        return series if named == series else named

    def _ask(self, series: SeriesInfo) -> SeriesInfo:
        deadline = time.monotonic() + self._patience
        self._socket.settimeout(self._patience)
        self._socket.send(self._encode((self._number, series)))
        while True:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            answer = self._socket.recv(_LONGEST)
            if not answer:
                raise ConnectionResetError
            number, named = self._decode(answer)
            if number == self._number:  # and not what came too late for an earlier claim
                return named

    def release(self, key: SeriesKey) -> None:
        self._released(key)
