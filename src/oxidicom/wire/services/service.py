"""The description of a DIMSE service that the acceptor uses."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import NamedTuple

from oxidicom.wire.dimse import Command


class DataSetUse(Enum):
    """How the data set of a request is used, if it has one."""

    SKIPPED = auto()
    """The data set is dropped; the response is sent after its end."""
    COLLECTED = auto()
    """The data set is kept, up to `max_data_set_bytes`, and passed to `respond`."""
    STORED = auto()
    """Its fragments become `Data` events as they arrive; the store decides on the response."""


class Service(NamedTuple):
    """One DIMSE service that the acceptor provides."""

    respond: Callable[[Command, bytes], bytes | None]
    """Function that returns the command set of the response, or None to send no response. Its
    arguments are the request and its data set, which is empty unless `data_set` is COLLECTED."""
    data_set: DataSetUse = DataSetUse.SKIPPED
    """How the data set of a request is used."""
    max_data_set_bytes: int = 0
    """Greatest size in bytes of a collected data set. The response to a longer one is a failure."""


def no_response(command: Command, data_set: bytes) -> None:
    """Return None, so that the acceptor sends no response of its own."""
