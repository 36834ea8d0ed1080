"""The count query of one series to a PACS, and its answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from oxidicom.settings.addresses import PacsAddress

COUNT_QUERY_LIMIT_S: Final = 30.0
"""Seconds for one count query: to connect, associate and read every response (decision 43)."""


class CountQuery(NamedTuple):
    """A query of the number of instances that a PACS has of one series."""

    address: PacsAddress
    """Address of the PACS; its AE title is the called AE title."""
    calling_ae_title: str
    """Our AE title."""
    study_instance_uid: str
    series_instance_uid: str


class CountAnswer(NamedTuple):
    """The outcome of a count query. A count is valid even if there is an error as well."""

    expected: int | None
    """Number of instances that the PACS has; None if it gave no number."""
    status: int | None
    """Status of the last C-FIND response (PS3.4 table C.4-1); None if there was none."""
    error: str | None
    """Why there is no count, or why the query failed after the count; None if neither is the case.
    It contains no patient data."""


Finder = Callable[[CountQuery], CountAnswer]
"""A function that makes one count query and returns its answer. It blocks for at most
`COUNT_QUERY_LIMIT_S`, plus the time to resolve the host's name."""
