"""Patient's Age (0010,1010) in days, computed in single precision as the reference does.

The number may have any form that Rust's f32 parses, not only the nnnD, nnnW, nnnM and nnnY of
PS3.5 6.2.
"""

from __future__ import annotations

import math
import re
import struct
from typing import Final

_FLOAT: Final = re.compile(
    r"[+-]?(?:inf|infinity|nan|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?)", re.IGNORECASE
)
_I32_MIN: Final = -(2**31)
_I32_MAX: Final = 2**31 - 1


def _single(x: float) -> float:
    """Return `x` rounded to single precision."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", x))[0])
    except OverflowError:
        return math.copysign(math.inf, x)


_DAYS_OF_UNIT: Final = {"D": 1.0, "W": 7.0, "M": _single(30.44), "Y": _single(365.24)}


def days_of_age(text: str) -> int | None:
    """Return an age in days; None if the text is not an age.

    Rounds half away from zero, and saturates at the limits of a signed 32-bit integer. The age is 0
    if the number is a NaN.
    """
    unit = _DAYS_OF_UNIT.get(text[-1:])
    if unit is None or _FLOAT.fullmatch(text, 0, len(text) - 1) is None:
        return None
    days = _single(_single(float(text[:-1])) * unit)
    if math.isnan(days):
        return 0
    if math.isinf(days):
        return _I32_MAX if days > 0 else _I32_MIN
    rounded = int(math.copysign(math.floor(abs(days) + 0.5), days))
    return max(_I32_MIN, min(_I32_MAX, rounded))
