"""Messages between a worker and the control process, encoded as bytes; sans-IO.

A frame is a list of records in the order in which they were sent; each record is a list that begins
with its type. The description of a series is longer than everything else about an instance, so it
is sent once, with a number, and later records have only the number.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import msgspec

from oxidicom.ports import (
    AssociationBegan,
    AssociationEnded,
    InstanceRefused,
    InstanceStored,
    Report,
    SeriesInfo,
)

MAX_NUMBERED_SERIES: Final = 1024
"""Series that have a number at one time; before one more gets a number, all lose theirs."""


class WorkerReady(NamedTuple):
    """From a worker: it could accept connections."""


class StartFailed(NamedTuple):
    """From a worker: it cannot start."""

    faults: list[str]
    """One line for the operator each."""


class WorkerAlive(NamedTuple):
    """From a worker, at intervals: its loop turns."""


class ClaimReleased(NamedTuple):
    """From a worker: one folder claim of a series is over."""

    pacs_name: str
    series_instance_uid: str


class BeginAccepting(NamedTuple):
    """To a worker: accept connections."""


class RegistrationQueued(NamedTuple):
    """To a worker: the registration of what these associations stored is in the outbox."""

    pacs_name: str
    series_instance_uid: str
    associations: list[str]


class ReloadCertificate(NamedTuple):
    """To a worker: read the certificate again."""


class Drain(NamedTuple):
    """To a worker: accept no connections, let associations end, send the last reports, exit."""


Message = (
    Report
    | WorkerReady
    | StartFailed
    | WorkerAlive
    | ClaimReleased
    | BeginAccepting
    | RegistrationQueued
    | ReloadCertificate
    | Drain
)


class _SeriesNumbered(NamedTuple):
    """From here on this number means this series."""

    number: int
    series: SeriesInfo


_TYPES: Final[tuple[type[tuple[Any, ...]], ...]] = (
    _SeriesNumbered,
    InstanceStored,
    InstanceRefused,
    AssociationBegan,
    AssociationEnded,
    WorkerReady,
    StartFailed,
    ClaimReleased,
    BeginAccepting,
    RegistrationQueued,
    ReloadCertificate,
    Drain,
    WorkerAlive,
)
"""A record's type is sent as its index here."""
_INDEX: Final = {type_: index for index, type_ in enumerate(_TYPES)}
_NUMBERED: Final = _INDEX[_SeriesNumbered]
_STORED: Final = _INDEX[InstanceStored]


class Encoder:
    """Encodes the messages of one direction of one channel; knows which series have numbers."""

    def __init__(self) -> None:
        self._encode = msgspec.msgpack.Encoder().encode
        self._series: dict[int, tuple[int, SeriesInfo]] = {}
        """By id(), which the reference keeps from being reused."""

    def encode(self, messages: Iterable[Message]) -> bytes:
        """Return one frame's payload. Raises ValueError for text that UTF-8 cannot encode."""
        records: list[object] = []
        try:
            for message in messages:
                if type(message) is InstanceStored:
                    number = self._number(message.series, records)
                    records.append((_STORED, message[0], number, *message[2:]))
                else:
                    records.append((_INDEX[type(message)], *message))
            return self._encode(records)
        except ValueError:
            # The other side never learns the numbers that were given here.
            self._series.clear()
            raise

    def _number(self, series: SeriesInfo, records: list[object]) -> int:
        known = self._series.get(id(series))
        if known is not None:
            return known[0]
        if len(self._series) >= MAX_NUMBERED_SERIES:
            self._series.clear()
        number = len(self._series)
        self._series[id(series)] = (number, series)
        records.append((_NUMBERED, number, series))
        return number


class Decoder:
    """Decodes what one Encoder has encoded."""

    def __init__(self) -> None:
        self._decode = msgspec.msgpack.Decoder().decode
        self._series: dict[int, SeriesInfo] = {}

    def decode(self, frame: bytes | bytearray) -> list[Message]:
        """Return the messages of one frame's payload. Raises IndexError for an unknown type."""
        messages: list[Message] = []
        series = self._series
        for record in self._decode(frame):
            index = record[0]
            if index == _STORED:
                record[2] = series[record[2]]
                messages.append(InstanceStored(*record[1:]))
            elif index == _NUMBERED:
                series[record[1]] = msgspec.convert(record[2], SeriesInfo)
            else:
                message: Any = _TYPES[index](*record[1:])
                messages.append(message)
        return messages


# ---- frames in a stream ----------------------------------------------------------------------

_LENGTH: Final = struct.Struct("!I")


def framed(payload: bytes) -> bytes:
    """Return the payload with its length before it."""
    return _LENGTH.pack(len(payload)) + payload


class FrameSplitter:
    """Cuts a stream into the payloads that were framed."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytearray]:
        """Return the payloads that are complete now."""
        rest = self._rest
        rest += data
        payloads = []
        start = 0
        while len(rest) - start >= _LENGTH.size:
            stop = start + _LENGTH.size + _LENGTH.unpack_from(rest, start)[0]
            if len(rest) < stop:
                break
            payloads.append(rest[start + _LENGTH.size : stop])
            start = stop
        del rest[:start]
        return payloads
