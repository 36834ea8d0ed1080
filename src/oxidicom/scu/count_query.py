"""What a PACS is asked about a series, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from oxidicom.settings.addresses import PacsAddress

LIMIT: Final = 30.0
"""Seconds for one question: to connect, associate and read every answer (decision 43)."""


class CountQuery(NamedTuple):
    address: PacsAddress
    """Its AE title is the called one."""
    calling_ae_title: str
    """Ours."""
    study_instance_uid: str
    series_instance_uid: str


class CountAnswer(NamedTuple):
    """A count stands, whatever went wrong after it."""

    expected: int | None
    """Instances, as the PACS says."""
    status: int | None
    """Of the C-FIND's last response, if there was one (PS3.4 table C.4-1)."""
    error: str | None
    """No patient data."""


Finder = Callable[[CountQuery], CountAnswer]
"""Blocks for `LIMIT` at most, if the resolver of names lets it."""
