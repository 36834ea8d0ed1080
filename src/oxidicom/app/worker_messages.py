"""Messages between a worker and the control process, and their encoding; without any I/O.

The payload of a frame is a list of records in MessagePack, in the order of sending; each record is
a list that begins with its type. The attributes of a series are longer than the rest of a report of
an instance, so they are sent once, with a number, and later records contain only the number.
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
"""Greatest number of series that have numbers; before one more gets one, all others lose theirs."""


class WorkerReady(NamedTuple):
    """From a worker: it has started, and waits for `BeginAccepting`."""


class StartFailed(NamedTuple):
    """From a worker: it cannot start, and exits."""

    faults: list[str]
    """The reasons, one line for the operator each."""


class WorkerAlive(NamedTuple):
    """From a worker, at intervals: a heartbeat of its loop."""


class ClaimReleased(NamedTuple):
    """From a worker: it has released one claim to the folder of a series."""

    pacs_name: str
    series_instance_uid: str


class BeginAccepting(NamedTuple):
    """To a worker: accept connections."""


class RegistrationQueued(NamedTuple):
    """To a worker: a series is complete, and its registration is in the outbox if it has one."""

    pacs_name: str
    series_instance_uid: str
    associations: list[str]
    """ULIDs of the associations whose instances the registration contains."""


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
"""A message in either direction; reports come from a worker."""


class _SeriesNumbered(NamedTuple):
    """A record that gives a series a number, which it has in all later records."""

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
"""The types of records; a record begins with the index of its type in this tuple."""
_INDEX: Final = {type_: index for index, type_ in enumerate(_TYPES)}
_NUMBERED: Final = _INDEX[_SeriesNumbered]
_STORED: Final = _INDEX[InstanceStored]


class Encoder:
    """Encodes the messages of one direction of a channel.

    The attributes of a series are sent once, with a number that later messages contain instead.
    """

    def __init__(self) -> None:
        self._encode = msgspec.msgpack.Encoder().encode
        self._series: dict[int, tuple[int, SeriesInfo]] = {}
        """Number of each series, by id() of its record, kept so that the id is not reused."""

    def encode(self, messages: Iterable[Message]) -> bytes:
        """Return the payload of one frame. Raises ValueError if a text has no UTF-8 encoding."""
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
            # The numbers given here are not sent, so they must not be used later.
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
    """Decodes the payloads of one Encoder, in the order in which they were encoded."""

    def __init__(self) -> None:
        self._decode = msgspec.msgpack.Decoder().decode
        self._series: dict[int, SeriesInfo] = {}

    def decode(self, frame: bytes | bytearray) -> list[Message]:
        """Return the messages in the payload of one frame.

        Raises IndexError for an unknown type, KeyError for an unknown series number, and ValueError
        or TypeError for an otherwise invalid payload.
        """
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
    """Return the frame of a payload: its length in 4 bytes, big-endian, then the payload."""
    return _LENGTH.pack(len(payload)) + payload


class FrameSplitter:
    """Splits a stream of frames into payloads."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytearray]:
        """Return the payloads that `data`, the next bytes of the stream, completes."""
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
