"""Decodes text by Specific Character Set (0008,0005; PS3.5 6.1), with the tables of pydicom.

pydicom's own functions emit a warning and a log record for each value that they repair, which is
noise in a receiver. These functions do neither, may run on any thread, and replace bytes that
cannot be decoded by U+FFFD.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from typing import Final

from pydicom.charset import (
    CODES_TO_ENCODINGS,
    STAND_ALONE_ENCODINGS,
    default_encoding,
    python_encoding,
)
from pydicom.valuerep import TEXT_VR_DELIMS

_ESCAPE: Final = b"\x1b"
_FRAGMENTS: Final = re.compile(rb"^[^\x1b]+|\x1b[^\x1b]*")
_DELIMITER: Final = re.compile(b"[%s]" % re.escape(bytes(sorted(TEXT_VR_DELIMS))))
_SURROGATES: Final = re.compile("[\ud800-\udfff]")

_KEEPS_ESCAPES: Final = frozenset({"iso2022_jp", "iso2022_jp_2"})
"""Encodings whose Python codecs interpret escape sequences. All others decode them as text, so the
sequences are removed before."""

_TERM: Final = re.compile(r"ISO[ _-]?(2022[ _-])?(?:IR[ _-]?)?([0-9]+)")
_PYTHON_NAME: Final = re.compile(r"[A-Za-z0-9_. -]{1,24}")
_TEXT_CODEC: Final = re.compile(
    r"utf-8|ascii|iso8859-\d+|cp\d+|koi8-[ru]|big5|gbk|gb2312|gb18030|euc_jp|euc_kr|shift_jis"
)
"""Names of codecs that a peer may use instead of the defined terms: plain character encodings only.
Python's registry also has codecs that transform, escape or always fail."""


def encodings_of(charset: bytes | None) -> list[str]:
    """Return the Python encodings for a value of Specific Character Set, the initial one first.

    An absent, empty or unknown value means ISO 8859-1. If the first character set is one without
    code extensions, all others are ignored; at any other place such a set is ignored itself
    (PS3.3 C.12.1.1.2).
    """
    terms = [term.strip(" \0") for term in (charset or b"").decode("latin-1").split("\\")]
    if terms[0] in STAND_ALONE_ENCODINGS:
        del terms[1:]
    extensions = [term for term in terms[1:] if term not in STAND_ALONE_ENCODINGS]
    return [_encoding_of(term) for term in (terms[0], *extensions)]


def _encoding_of(term: str) -> str:
    known = python_encoding.get(term)
    if known is not None:
        return str(known)
    spelling = _TERM.fullmatch(term.upper())
    if spelling is not None:
        with_extensions, number = spelling.groups()
        forms = [f"ISO_IR {number}", f"ISO 2022 IR {number}", f"ISO 2022 {number}"]
        for form in reversed(forms) if with_extensions else forms:
            if form in python_encoding:
                return str(python_encoding[form])
        return str(default_encoding)
    return _python_codec(term)


def _python_codec(name: str) -> str:
    """Return the Python codec for a name that is not a defined term, such as `windows-1252`.

    Returns the codec of ISO 8859-1 if the name is not one of a plain character encoding.
    """
    if _PYTHON_NAME.fullmatch(name) is not None:
        try:
            codec = codecs.lookup(name).name
        except LookupError:
            return str(default_encoding)
        if _TEXT_CODEC.fullmatch(codec) is not None:
            return codec
    return str(default_encoding)


def decode_text(value: bytes, encodings: Sequence[str]) -> str:
    """Return the text of a value to which Specific Character Set applies (PS3.5 6.1.2.5).

    A value is decoded before it is split at backslashes: in some multi-byte character sets the
    second byte of a character may be 0x5C.
    """
    if _ESCAPE not in value:
        text = value.decode(encodings[0], "replace")
    else:
        fragments = _FRAGMENTS.findall(value)
        text = "".join([_decode_fragment(fragment, encodings) for fragment in fragments])
    return _SURROGATES.sub("\ufffd", text)


def _decode_fragment(fragment: bytes, encodings: Sequence[str]) -> str:
    """Return the text of a fragment, which may begin with an escape sequence and contains no other.

    The escape sequence applies up to the first delimiter.
    """
    size = 4 if fragment.startswith((b"\x1b$(", b"\x1b$)")) else 3
    encoding = CODES_TO_ENCODINGS.get(fragment[:size])
    if encoding is None or (encoding not in encodings and encoding != default_encoding):
        return fragment.decode(encodings[0], "replace")
    if encoding in _KEEPS_ESCAPES:
        return fragment.decode(encoding, "replace")
    fragment = fragment[size:]
    delimiter = _DELIMITER.search(fragment)
    reach = delimiter.start() if delimiter is not None else len(fragment)
    return fragment[:reach].decode(encoding, "replace") + fragment[reach:].decode(
        encodings[0], "replace"
    )
