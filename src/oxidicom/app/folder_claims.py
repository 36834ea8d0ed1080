"""Folder claims: several workers store one series into one folder (decision 26).

Before a worker stores the first instance of a series it claims the series' folder; the first claim
decides the path for all workers. The worker releases its claim when it has no instance of the
series stored or in flight that is not registered. The control process keeps all claims and answers
one after the other; a claim binds from the answer on, so that no two workers ever use two folders
for one series that is open.
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

CLAIM_TIMEOUT_S: Final = 1.0
"""Seconds for an answer, which takes some 100 µs."""
CLAIM_TIMEOUT_AFTER_FAILURE_S: Final = 0.02
"""Seconds for an answer while the one before did not come in time."""

_MAX_CLAIM_BYTES: Final = 2 << 20
"""17 values of 64 KiB in the widest encoding of UTF-8 are fewer."""


class FolderClaims:
    """The claims of all workers, by series, in the control process.

    `open_series` returns the description of a series that is open, also of one that nothing claims
    because a crash or a worker's death has left it.
    """

    def __init__(self, open_series: Callable[[SeriesKey], SeriesInfo | None]) -> None:
        self._open_series = open_series
        self._claims: dict[SeriesKey, tuple[SeriesInfo, Counter[str]]] = {}
        """The description that decides the folder, and the number of claims by worker."""

    def __len__(self) -> int:
        return len(self._claims)

    def claim(self, worker: str, series: SeriesInfo) -> SeriesInfo:
        """Return `series`, or the description that decides the folder in its place."""
        key = series.key
        agreed, holders = self._claims.get(key, (series, Counter[str]()))
        if not any(holder != worker for holder in holders):
            # Its own earlier claim does not bind it: it claims again only once that is over.
            agreed = self._open_series(key) or series
        # Counted, because the release of an earlier claim may arrive after the next claim.
        holders[worker] += 1
        self._claims[key] = agreed, holders
        return agreed

    def release(self, worker: str, key: SeriesKey) -> None:
        """End one claim of the worker; unknown ones are ignored."""
        if key in self._claims:
            _, holders = self._claims[key]
            holders[worker] -= 1
            self._remove_unheld(key)

    def forget(self, worker: str) -> None:
        """End all claims of a worker that has ended.

        `open_series` must know the series that it left open by then.
        """
        for key in [key for key, (_, holders) in self._claims.items() if worker in holders]:
            del self._claims[key][1][worker]
            self._remove_unheld(key)

    def _remove_unheld(self, key: SeriesKey) -> None:
        _, holders = self._claims[key]
        for worker in [worker for worker, count in holders.items() if count <= 0]:
            del holders[worker]
        if not holders:
            del self._claims[key]


class ClaimServer:
    """Answers one worker's claims, on the main loop of the control process."""

    def __init__(self, end: socket.socket, worker: str, claims: FolderClaims) -> None:
        end.setblocking(False)
        self._socket = end
        self._worker = worker
        self._claims = claims
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(tuple[int, SeriesInfo]).decode

    def fileno(self) -> int:
        return self._socket.fileno()

    def answer(self) -> bool:
        """Answer one claim; return False if the worker is gone."""
        try:
            request = self._socket.recv(_MAX_CLAIM_BYTES)
            if not request:
                return False
            number, series = self._decode(request)
            self._socket.send(self._encode((number, self._claims.claim(self._worker, series))))
        except BlockingIOError:
            pass  # the worker times out and uses its own folder name
        except OSError:
            return False
        return True

    def close(self) -> None:
        self._socket.close()


class ClaimClient:
    """Claims folders for one worker (ports.FolderNames)."""

    def __init__(self, end: socket.socket, released: Callable[[SeriesKey], None]) -> None:
        self._socket = end
        self._released = released
        self._number = 0
        self._timeout = CLAIM_TIMEOUT_S
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(tuple[int, SeriesInfo]).decode

    def claim(self, series: SeriesInfo) -> SeriesInfo:
        """Return the description that decides the folder: `series` or that of an earlier claim.

        Blocks the loop until the control process answers, and returns `series` if that takes too
        long; never raises.
        """
        self._number += 1
        try:
            agreed = self._request(series)
        except (OSError, ValueError) as error:
            self._timeout = CLAIM_TIMEOUT_AFTER_FAILURE_S
            event(
                logger,
                logging.ERROR,
                "folder claim timed out; using this worker's folder name",
                error=error,
                SeriesInstanceUID=series.series_instance_uid,
            )
            return series
        self._timeout = CLAIM_TIMEOUT_S
        # The caller compares by identity first, which is faster with its own record.
        return series if agreed == series else agreed

    def _request(self, series: SeriesInfo) -> SeriesInfo:
        deadline = time.monotonic() + self._timeout
        self._socket.settimeout(self._timeout)
        self._socket.send(self._encode((self._number, series)))
        while True:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            answer = self._socket.recv(_MAX_CLAIM_BYTES)
            if not answer:
                raise ConnectionResetError
            number, agreed = self._decode(answer)
            if number == self._number:  # otherwise a late answer to an earlier claim
                return agreed

    def release(self, key: SeriesKey) -> None:
        self._released(key)
