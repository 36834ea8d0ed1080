"""Which reader finds the wanted elements of a data set, by its encoding."""

from __future__ import annotations

from oxidicom._dataset import Walker
from oxidicom.constants import Encoding
from oxidicom.store.readers import Inflater

Reader = Walker | Inflater


def reader_for(encoding: Encoding) -> Reader:
    """A fresh reader for one data set."""
    return Inflater() if encoding is Encoding.DEFLATED else Walker(encoding)
