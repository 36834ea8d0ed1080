"""The hash function SeaHash 4, as in the Rust crate `seahash`. Names of series folders use it."""

from __future__ import annotations

from typing import Final

_MASK: Final = (1 << 64) - 1
_PRIME: Final = 0x6EED0E9DA4D94A4F
_SEEDS: Final = (
    0x16F11FE89B0D677C,
    0xB480A793D8E6C86C,
    0x6FE2E5AAF078EBC9,
    0x14F994A4C5259381,
)


def _diffuse(x: int) -> int:
    x = x * _PRIME & _MASK
    x ^= (x >> 32) >> (x >> 60)
    return x * _PRIME & _MASK


def seahash(data: bytes) -> int:
    """Return the 64-bit hash of `data` with the default seeds of the crate."""
    a, b, c, d = _SEEDS
    for start in range(0, len(data), 8):
        word = int.from_bytes(data[start : start + 8], "little")
        a, b, c, d = b, c, d, _diffuse(a ^ word)
    return _diffuse(a ^ b ^ c ^ d ^ len(data))


def short_hash(data: bytes, digits: int) -> str:
    """Return the first `digits` hexadecimal digits of the hash.

    The hash is written without leading zeros, so the result may be shorter.
    """
    return f"{seahash(data):x}"[:digits]
