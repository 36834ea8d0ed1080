"""The description of a DIMSE service that the acceptor uses."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import NamedTuple

from oxidicom.wire.dimse import Command


class DataSetUse(Enum):
    """How the data set of a request is used, if it has one."""

    SKIPPED = auto()
    """It is dropped; the response follows once it has passed."""
    COLLECTED = auto()
    """It is kept, up to the service's limit, and the response is made from it."""
    STORED = auto()
    """Its fragments become events as they arrive, and the response is the store's."""


class Service(NamedTuple):
    """One DIMSE service, as provider."""

    respond: Callable[[Command, bytes], bytes | None]
    """Return the response's command set to a request and its collected data set (empty unless it is
    COLLECTED); None for no response."""
    data_set: DataSetUse = DataSetUse.SKIPPED
    max_data_set_bytes: int = 0
    """Greatest data set that is collected; a request with a longer one is answered by a failure."""


def no_response(command: Command, data_set: bytes) -> None:
    """Return None: the acceptor sends no response."""
