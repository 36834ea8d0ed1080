"""A question to a PACS about one series, and its answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from oxidicom.settings.addresses import PacsAddress

COUNT_QUERY_LIMIT_S: Final = 30.0
"""Seconds for one count query: to connect, associate and read every response (decision 43)."""


class CountQuery(NamedTuple):
    """Asks how many instances of a series a PACS has."""

    address: PacsAddress
    """Its AE title is the called one."""
    calling_ae_title: str
    """Our AE title."""
    study_instance_uid: str
    series_instance_uid: str


class CountAnswer(NamedTuple):
    """The outcome of a count query. A count is valid even if an error followed it."""

    expected: int | None
    """Number of instances that the PACS has; None if it gave none."""
    status: int | None
    """Status of the last C-FIND response (PS3.4 table C.4-1); None if there was none."""
    error: str | None
    """Why there is no count, or no proper end; without patient data."""


Finder = Callable[[CountQuery], CountAnswer]
"""Blocks for at most `COUNT_QUERY_LIMIT_S`, plus the time of the look-up of the host's name."""
