"""The abstract and transfer syntaxes that are accepted, and the encoding of each transfer syntax.

They come from pydicom's dictionary; those that it does not know yet are listed here. The tables are
built once, at their first use.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Final

from pydicom.uid import UID_dictionary

from oxidicom.constants import (
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    VERIFICATION,
    Encoding,
)

UNCOMPRESSED: Final = frozenset({IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN})
"""The transfer syntaxes accepted with OXIDICOM_SCP_UNCOMPRESSED_ONLY (decision 11)."""

_ABSTRACT_SYNTAXES_BEYOND_PYDICOM: Final = frozenset(
    {
        VERIFICATION,
        "1.2.840.10008.5.1.4.1.1.9.100.1",  # Waveform Presentation State
        "1.2.840.10008.5.1.4.1.1.9.100.2",  # Waveform Acquisition Presentation State
        "1.2.840.10008.5.1.4.1.1.66.7",  # Label Map Segmentation
        "1.2.840.10008.5.1.4.1.1.66.8",  # Height Map Segmentation
        "1.3.12.2.1107.5.9.1",  # Siemens, private, as the reference accepts them
        "1.3.12.2.1107.5.99.3.10",
        "1.3.12.2.1107.5.99.3.11",
    }
)

_TRANSFER_SYNTAXES_BEYOND_PYDICOM: Final = frozenset(
    {
        "1.2.840.10008.1.2.4.110",  # JPEG XL lossless, JPEG recompression, JPEG XL
        "1.2.840.10008.1.2.4.111",
        "1.2.840.10008.1.2.4.112",
        "1.2.840.10008.1.2.8.1",  # Deflated Image Frame: the frames are deflated, not the data set
    }
)

_NOT_A_BINARY_DATA_SET: Final = frozenset(
    {
        "1.2.840.10008.1.2.6.1",  # RFC 2557 MIME encapsulation
        "1.2.840.10008.1.2.6.2",  # XML Encoding
    }
)

_NOT_EXPLICIT_LITTLE_ENDIAN: Final = {
    IMPLICIT_VR_LITTLE_ENDIAN: Encoding.IMPLICIT_LE,
    "1.2.840.10008.1.20": Encoding.IMPLICIT_LE,  # Papyrus 3
    EXPLICIT_VR_BIG_ENDIAN: Encoding.EXPLICIT_BE,
    "1.2.840.10008.1.2.1.99": Encoding.DEFLATED,
    "1.2.840.10008.1.2.4.95": Encoding.DEFLATED,  # JPIP Referenced Deflate
    "1.2.840.10008.1.2.4.205": Encoding.DEFLATED,  # JPIP HTJ2K Referenced Deflate
}

_is_uid: Final = re.compile(r"[0-9.]{1,64}").fullmatch


@cache
def abstract_syntaxes() -> frozenset[str]:
    """Return the abstract syntaxes accepted without OXIDICOM_SCP_PROMISCUOUS (decision 12)."""
    storage = {
        uid
        for uid, (name, kind, *_) in UID_dictionary.items()
        if kind == "SOP Class" and "Storage" in name
    }
    return _ABSTRACT_SYNTAXES_BEYOND_PYDICOM | storage


@cache
def transfer_syntaxes() -> Mapping[str, Encoding]:
    """Return the transfer syntaxes accepted without OXIDICOM_SCP_PROMISCUOUS, with their encodings
    (decision 11)."""
    binary = {uid for uid, entry in UID_dictionary.items() if entry[1] == "Transfer Syntax"}
    accepted = (binary | _TRANSFER_SYNTAXES_BEYOND_PYDICOM) - _NOT_A_BINARY_DATA_SET
    return {
        uid: _NOT_EXPLICIT_LITTLE_ENDIAN.get(uid, Encoding.EXPLICIT_LE) for uid in sorted(accepted)
    }


def transfer_syntax_encoding(uid: str, promiscuous: bool = False) -> Encoding | None:
    """Return the encoding of data sets in a transfer syntax; None if it is not accepted.

    If `promiscuous`, the encoding of any other UID is assumed to be Explicit VR Little Endian,
    which PS3.5 A.4 requires of every encapsulated syntax, including private ones. XML and MIME are
    always refused: they have none of the four encodings.
    """
    encoding = transfer_syntaxes().get(uid)
    if encoding is None and promiscuous and uid not in _NOT_A_BINARY_DATA_SET and _is_uid(uid):
        return Encoding.EXPLICIT_LE
    return encoding
