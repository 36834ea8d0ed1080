"""What a worker and the notifier say to each other, as bytes; sans-IO.

One frame is a list of records in their order, each a list that begins with its kind. A series is
said once, with a number, and is that number from then on: its description is longer than all else
that is said of an instance.
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

SERIES_REMEMBERED: Final = 1024
"""Series that have a number at once; one more, and numbers are given anew."""


class Ready(NamedTuple):
    """Worker: it could accept connections."""


class Failed(NamedTuple):
    """Worker: it cannot start. One line for the operator each."""

    faults: list[str]


class Alive(NamedTuple):
    """Worker: its loop turns."""


class NamesReleased(NamedTuple):
    """Worker: nothing of one claim of a series' names binds any longer."""

    pacs_name: str
    series_instance_uid: str


class Begin(NamedTuple):
    """Notifier: accept connections."""


class Registered(NamedTuple):
    """Notifier: what these associations stored of the series is registered."""

    pacs_name: str
    series_instance_uid: str
    associations: list[str]


class Reload(NamedTuple):
    """Notifier: read the certificate again."""


class Drain(NamedTuple):
    """Notifier: accept no more, let associations end, tell the rest, end."""


Message = Report | Ready | Failed | Alive | NamesReleased | Begin | Registered | Reload | Drain


class _Series(NamedTuple):
    """What a number means from here on."""

    number: int
    series: SeriesInfo


_KINDS: Final[tuple[type[tuple[Any, ...]], ...]] = (
    _Series,
    InstanceStored,
    InstanceRefused,
    AssociationBegan,
    AssociationEnded,
    Ready,
    Failed,
    NamesReleased,
    Begin,
    Registered,
    Reload,
    Drain,
    Alive,
)
_NUMBERS: Final = {kind: number for number, kind in enumerate(_KINDS)}
_SERIES: Final = _NUMBERS[_Series]
_STORED: Final = _NUMBERS[InstanceStored]


class Encoder:
    """One way of one channel; it knows which series the other side knows."""

    def __init__(self) -> None:
        self._encode = msgspec.msgpack.Encoder().encode
        self._series: dict[int, tuple[int, SeriesInfo]] = {}
        """By identity, which the reference keeps from being another's."""

    def encode(self, messages: Iterable[Message]) -> bytes:
        """Raises ValueError (UnicodeEncodeError) for text that is none."""
        records: list[object] = []
        try:
            for message in messages:
                if type(message) is InstanceStored:
                    number = self._number(message.series, records)
                    records.append((_STORED, message[0], number, *message[2:]))
                else:
                    records.append((_NUMBERS[type(message)], *message))
            return self._encode(records)
        except ValueError:
            # Of what was said here the other side knows nothing.
            self._series.clear()
            raise

    def _number(self, series: SeriesInfo, records: list[object]) -> int:
        known = self._series.get(id(series))
        if known is not None:
            return known[0]
        if len(self._series) >= SERIES_REMEMBERED:
            self._series.clear()
        number = len(self._series)
        self._series[id(series)] = (number, series)
        records.append((_SERIES, number, series))
        return number


class Decoder:
    """The other end of an Encoder's way."""

    def __init__(self) -> None:
        self._decode = msgspec.msgpack.Decoder().decode
        self._series: dict[int, SeriesInfo] = {}

    def decode(self, frame: bytes | bytearray) -> list[Message]:
        messages: list[Message] = []
        series = self._series
        for record in self._decode(frame):
            kind = record[0]
            if kind == _STORED:
                record[2] = series[record[2]]
                messages.append(InstanceStored(*record[1:]))
            elif kind == _SERIES:
                series[record[1]] = msgspec.convert(record[2], SeriesInfo)
            else:
                message: Any = _KINDS[kind](*record[1:])
                messages.append(message)
        return messages


# ---- frames in a stream ----------------------------------------------------------------------

_LENGTH: Final = struct.Struct("!I")


def framed(payload: bytes) -> bytes:
    return _LENGTH.pack(len(payload)) + payload


class Frames:
    """Cuts a stream into the frames that it was made of."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytearray]:
        """The frames that are whole now."""
        rest = self._rest
        rest += data
        frames = []
        start = 0
        while len(rest) - start >= _LENGTH.size:
            stop = start + _LENGTH.size + _LENGTH.unpack_from(rest, start)[0]
            if len(rest) < stop:
                break
            frames.append(rest[start + _LENGTH.size : stop])
            start = stop
        del rest[:start]
        return frames
