"""How a transfer syntax encodes data elements (PS3.5 annex A): what reading a tag depends on."""

from __future__ import annotations

from enum import IntEnum


class Encoding(IntEnum):
    """The four encodings of a data set; the compiled walker knows the first three."""

    IMPLICIT_LE = 0
    EXPLICIT_LE = 1
    EXPLICIT_BE = 2
    DEFLATED = 3
    """Explicit VR Little Endian in a raw deflate stream (PS3.5 A.5)."""
