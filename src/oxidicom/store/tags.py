"""Reads the text of the elements that identify an instance from their raw values."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from re import ASCII
from re import compile as regex
from typing import Final

from pydicom.datadict import dictionary_keyword, dictionary_VR

from oxidicom._dataset import WANTED_TAGS
from oxidicom.store.charset import decode_text, encodings_of

WHITE_SPACE: Final = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
"""Characters with the Unicode property White_Space, which the reference trims. `str.strip` also
trims U+001C to U+001F."""

KEYWORDS: Final[tuple[str, ...]] = tuple(dictionary_keyword(tag) for tag in WANTED_TAGS)
TAGS: Final[dict[str, int]] = dict(zip(KEYWORDS, WANTED_TAGS, strict=True))
_DICTIONARY_VR: Final[dict[str, str]] = {
    keyword: dictionary_VR(tag) for keyword, tag in TAGS.items()
}

_CHARSET_GOVERNED: Final = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
_SINGLE_VALUED: Final = frozenset({"LT", "ST", "UR", "UT"})
"""VRs in which a backslash is part of the text (PS3.5 6.2)."""
_TEXT: Final = _CHARSET_GOVERNED | {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI", "UR"}
_BINARY: Final = frozenset({"AT", "FD", "FL", "OB", "OD", "OF", "OL", "OV", "OW"})
_NOT_TEXT: Final = _BINARY | {"SL", "SQ", "SS", "SV", "UL", "US", "UV"}
"""VRs of binary values and sequences. With _TEXT, these are all VRs of PS3.5 table 6.2-1 but UN."""

_KEEPS_NUL: Final = frozenset({"SeriesNumber", "InstanceNumber", "PatientAge"})

_STUDY_DATE: Final = regex(
    r"(\d{4})(?:(\d\d)(\d\d)|-(\d\d)-(\d\d)|\.(\d\d)\.(\d\d))", ASCII
).fullmatch


def vr_of(keyword: str, sent: bytes) -> str:
    """Return the VR of an element: `sent`, or that of the dictionary if `sent` is UN or unknown."""
    vr = sent.decode("latin-1")
    return vr if vr in _TEXT or vr in _NOT_TEXT else _DICTIONARY_VR[keyword]


def is_text(vr: str) -> bool:
    """Return whether the values of `vr` are text; True for an unknown VR."""
    return vr not in _NOT_TEXT


def text_of(
    keyword: str, raw: bytes | None, vr: str, encodings: Sequence[str] = ("latin-1",)
) -> str | None:
    """Return the text of the first value of an element, trimmed and without NULs.

    Returns None if the element is absent, empty or not text. Numbers and ages keep their NULs: they
    are parsed later, and a number with a NUL in it is invalid.
    """
    if not raw or vr in _NOT_TEXT:
        return None
    text = decode_text(raw, encodings) if vr in _CHARSET_GOVERNED else raw.decode("latin-1")
    if vr not in _SINGLE_VALUED:
        text = text.partition("\\")[0]
    text = text.strip(WHITE_SPACE)
    return text if keyword in _KEEPS_NUL else text.replace("\0", "")


def charset_of(raw: bytes | None, vr: str) -> list[str]:
    """Return the Python encodings for a raw value of Specific Character Set, the initial one first.

    A value whose VR is not text counts as absent.
    """
    return encodings_of(None if vr in _NOT_TEXT else raw)


def iso_date(text: str) -> str | None:
    """Return YYYYMMDD, YYYY-MM-DD or YYYY.MM.DD as YYYY-MM-DD; None if it is not a date."""
    match = _STUDY_DATE(text)
    if match is None:
        return None
    year, month, day = (int(digits) for digits in match.groups() if digits is not None)
    try:
        return date(year, month, day).isoformat()
    except ValueError:
        return None
