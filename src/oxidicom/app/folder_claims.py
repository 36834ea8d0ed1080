"""Folder claims: several workers store one series into one folder (decision 26).

Before a worker stores the first instance of a series, it claims the folder of the series; the first
claim decides the path for all workers. The worker releases its claim when none of its instances of
the series is in flight or to be registered. The control process keeps all claims and answers them
one after the other, so that two workers never use two folders for one open series.
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
"""Seconds to wait for an answer, which normally takes about 100 µs."""
CLAIM_TIMEOUT_AFTER_FAILURE_S: Final = 0.02
"""Seconds to wait for an answer if the answer before it did not come in time."""

_MAX_CLAIM_BYTES: Final = 2 << 20
"""Greatest size of a claim or an answer in bytes; its 17 values need less, at 64 KiB each."""


class FolderClaims:
    """The folder claims of all workers, kept in the control process.

    `open_series` returns the attributes of a series that is open, or None. It knows the series that
    a crash or a dead worker has left open, too, although no worker has a claim to their folder.
    """

    def __init__(self, open_series: Callable[[SeriesKey], SeriesInfo | None]) -> None:
        self._open_series = open_series
        self._claims: dict[SeriesKey, tuple[SeriesInfo, Counter[str]]] = {}
        """The attributes that decide the folder, and the number of claims of each worker."""

    def __len__(self) -> int:
        """Return the number of series whose folder is claimed."""
        return len(self._claims)

    def claim(self, worker: str, series: SeriesInfo) -> SeriesInfo:
        """Add a claim of the worker, and return the attributes that decide the folder.

        They are those of an earlier claim or of the open series, otherwise `series`.
        """
        key = series.key
        agreed, holders = self._claims.get(key, (series, Counter[str]()))
        if not any(holder != worker for holder in holders):
            # No other worker has a claim, and the worker's own earlier claims are over.
            agreed = self._open_series(key) or series
        # Counted, because the release of a claim may arrive after the next claim.
        holders[worker] += 1
        self._claims[key] = agreed, holders
        return agreed

    def release(self, worker: str, key: SeriesKey) -> None:
        """End one claim of the worker to the folder of a series. Ignored if there is none."""
        if key in self._claims:
            _, holders = self._claims[key]
            holders[worker] -= 1
            self._remove_unheld(key)

    def forget(self, worker: str) -> None:
        """End all claims of a worker that has ended.

        Call it after `open_series` knows the series that the worker left open.
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
    """Answers one worker's claims, on the main loop of the control process.

    `end` is a SOCK_SEQPACKET socket; `worker` identifies the worker in `claims`.
    """

    def __init__(self, end: socket.socket, worker: str, claims: FolderClaims) -> None:
        end.setblocking(False)
        self._socket = end
        self._worker = worker
        self._claims = claims
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(tuple[int, SeriesInfo]).decode

    def fileno(self) -> int:
        """Return the socket's file descriptor, so that a loop can watch this object."""
        return self._socket.fileno()

    def answer(self) -> bool:
        """Answer one claim without blocking; return False if the worker has closed its socket.

        Raises ValueError if the claim cannot be decoded.
        """
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
    """Claims folders for one worker (ports.FolderNames).

    `end` is a SOCK_SEQPACKET socket; `released` is called with the key of each released claim.
    """

    def __init__(self, end: socket.socket, released: Callable[[SeriesKey], None]) -> None:
        self._socket = end
        self._released = released
        self._number = 0
        self._timeout = CLAIM_TIMEOUT_S
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(tuple[int, SeriesInfo]).decode

    def claim(self, series: SeriesInfo) -> SeriesInfo:
        """Return the attributes that decide the folder: `series` or those of an earlier claim.

        Blocks the loop until the control process answers. Logs an error and returns `series` if it
        does not answer within CLAIM_TIMEOUT_S, or CLAIM_TIMEOUT_AFTER_FAILURE_S after a failure.
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
        # Equal attributes are returned as the caller's object, which is faster to compare.
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
            if number == self._number:  # otherwise it is a late answer to an earlier claim
                return agreed

    def release(self, key: SeriesKey) -> None:
        """Release one claim to the folder of a series."""
        self._released(key)
