"""A colour profile for pictures in RGB (ICC.1:2001-04), which PS3.3 C.11.15 requires."""

from __future__ import annotations

import struct

_D50 = (0.9642, 1.0, 0.8249)
_PRIMARIES = {  # of sRGB, adapted to D50
    b"rXYZ": (0.4361, 0.2225, 0.0139),
    b"gXYZ": (0.3851, 0.7169, 0.0971),
    b"bXYZ": (0.1431, 0.0606, 0.7141),
}
_GAMMA = 2.2
_HEADER = 128


def srgb_like_profile() -> bytes:
    """Encode an input profile with sRGB's primaries and one exponent."""
    name = b"Samples RGB\0"
    curve = b"curv" + struct.pack(">IIHxx", 0, 1, round(_GAMMA * 256))
    tags = {
        b"desc": b"desc" + struct.pack(">II", 0, len(name)) + name + bytes(4 + 4 + 2 + 1 + 67),
        b"cprt": b"text" + bytes(4) + b"No copyright\0",
        b"wtpt": _xyz(_D50),
        **{tag: _xyz(primary) for tag, primary in _PRIMARIES.items()},
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve),
    }
    offset = _HEADER + 4 + 12 * len(tags)
    table = struct.pack(">I", len(tags))
    bodies = b""
    for tag, body in tags.items():
        table += tag + struct.pack(">II", offset + len(bodies), len(body))
        bodies += body + bytes(-len(body) % 4)
    return _header(offset + len(bodies)) + table + bodies


def _header(length: int) -> bytes:
    begin = struct.pack(">I4xI", length, 0x02400000) + b"scnrRGB XYZ "
    date = struct.pack(">6H", 2026, 1, 1, 0, 0, 0)
    return (begin + date + b"acsp" + bytes(28) + _fixed(_D50)).ljust(_HEADER, b"\0")


def _xyz(values: tuple[float, float, float]) -> bytes:
    return b"XYZ " + bytes(4) + _fixed(values)


def _fixed(values: tuple[float, float, float]) -> bytes:
    """Encode an s15Fixed16Number for each value."""
    return struct.pack(">3i", *(round(value * 65536) for value in values))
