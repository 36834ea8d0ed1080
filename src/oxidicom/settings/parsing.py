"""From the text of an environment variable to a value, and back to text for a person.

Every parser takes text that is neither empty nor padded and raises `InvalidValue`; no error text
repeats the value, which may be a secret.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Final


class InvalidValue(ValueError):
    """A value that does not do; the text says why, where more than the expectation can be said."""


_TRUE: Final = frozenset(("true", "yes", "on", "1"))
_FALSE: Final = frozenset(("false", "no", "off", "0"))


def parse_bool(text: str) -> bool:
    word = text.lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise InvalidValue


def show_bool(value: bool) -> str:
    return "true" if value else "false"


# ---- durations -----------------------------------------------------------------------------

_NANOSECONDS: Final[Mapping[str, int]] = {
    unit: nanoseconds
    for units, nanoseconds in (
        ("ns nsec nanos", 1),
        ("us usec \N{MICRO SIGN}s \N{GREEK SMALL LETTER MU}s", 10**3),
        ("ms msec millis", 10**6),
        ("s sec secs second seconds", 10**9),
        ("m min mins minute minutes", 60 * 10**9),
        ("h hr hrs hour hours", 3_600 * 10**9),
        ("d day days", 86_400 * 10**9),
        ("w wk wks week weeks", 7 * 86_400 * 10**9),
        ("M month months", 2_630_016 * 10**9),  # 30.44 days
        ("y yr yrs year years", 31_557_600 * 10**9),  # 365.25 days
    )
    for unit in units.split()
}
"""The units of the Rust crate humantime, which the reference reads; `M` is not `m`."""

_DURATION_PART: Final = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,20})?)[ \t]*([^\W\d_]+)[ \t]*")
_BARE_NUMBER: Final = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
_LONGEST: Final = 100 * _NANOSECONDS["y"]
"""A clock plus this still fits wherever the event loop and the kernel count."""


def parse_duration(text: str) -> float:
    """Seconds, 0 to 100 years, of number and unit pairs such as `1m 30s`."""
    if _BARE_NUMBER.fullmatch(text):
        raise InvalidValue("a unit is missing")
    total = Fraction(0)
    position = 0
    while position < len(text):
        part = _DURATION_PART.match(text, position)
        if part is None:
            raise InvalidValue
        number, unit = part.groups()
        if unit not in _NANOSECONDS:
            raise InvalidValue("there is no such unit of time")
        total += Fraction(number) * _NANOSECONDS[unit]
        position = part.end()
    if total > _LONGEST:
        raise InvalidValue("longer than 100 years")
    return float(total / 10**9)


def parse_time_limit(text: str) -> float:
    """Seconds, above 0: a limit of none at all would end everything at once."""
    seconds = parse_duration(text)
    if seconds <= 0:
        raise InvalidValue("a time limit is above 0s")
    return seconds


def show_duration(seconds: float) -> str:
    """The shortest form that `parse_duration` reads back, to the nanosecond."""
    remaining = round(seconds * 10**9)
    parts = []
    for unit in ("d", "h", "m", "s", "ms", "us", "ns"):
        count, remaining = divmod(remaining, _NANOSECONDS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts) or "0s"


# ---- numbers and sizes ---------------------------------------------------------------------

_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,18}")
_SIZE: Final = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,20})?)[ \t]*(KiB|MiB|GiB|TiB)?", re.IGNORECASE)
_SIZE_UNITS: Final = {"tib": 1 << 40, "gib": 1 << 30, "mib": 1 << 20, "kib": 1 << 10}


def integer(low: int, high: int | None = None) -> Callable[[str], int]:
    """A parser of decimal numbers from `low` to `high`."""

    def parse(text: str) -> int:
        if not _INTEGER.fullmatch(text):
            raise InvalidValue
        value = int(text)
        if value < low or (high is not None and value > high):
            raise InvalidValue
        return value

    return parse


def parse_port(text: str) -> int | None:
    """None where it is turned off."""
    return None if text.lower() == "off" else integer(0, 65535)(text)


def parse_size(text: str) -> int:
    """Bytes below 2**63, of a number alone or with a binary unit in any case."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise InvalidValue
    number, unit = match.groups()
    value = Fraction(number) * (_SIZE_UNITS[unit.lower()] if unit else 1)
    if value.denominator != 1:
        raise InvalidValue("not a whole number of bytes")
    if value >= 1 << 63:
        raise InvalidValue("2**63 bytes or more")
    return int(value)


def size(low: int, high: int | None = None, *, or_zero: bool = False) -> Callable[[str], int]:
    """A parser of sizes from `low` to `high` bytes; 0 too, where it has a meaning of its own."""

    def parse(text: str) -> int:
        value = parse_size(text)
        if or_zero and value == 0:
            return value
        if value < low or (high is not None and value > high):
            raise InvalidValue
        return value

    return parse


def show_size(value: int) -> str:
    for unit, factor in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if value and value % factor == 0:
            return f"{value // factor}{unit}"
    return str(value)


# ---- words ---------------------------------------------------------------------------------


def word_of(words: Mapping[str, str]) -> Callable[[str], str]:
    """A parser of a closed set of words, any case; the mapping gives what each stands for."""

    def parse(text: str) -> str:
        try:
            return words[text.lower()]
        except KeyError:
            raise InvalidValue from None

    return parse


def text_of(max_bytes: int) -> Callable[[str], str]:
    """A parser of printable text of at most `max_bytes` bytes of UTF-8."""

    def parse(text: str) -> str:
        if not text.isprintable():
            raise InvalidValue("it holds characters that cannot be printed")
        if len(text.encode()) > max_bytes:
            raise InvalidValue(f"longer than {max_bytes} bytes")
        return text

    return parse


def parse_subject(text: str) -> str:
    """The literal beginning of NATS subjects: tokens between dots, no wildcards."""
    parse = text_of(255)
    if not all(parse(text).split(".")) or any(each in " *>" for each in text):
        raise InvalidValue("spaces, *, > and empty parts between dots are not for subjects")
    return text


def is_ae_title(text: str) -> bool:
    """Of 1 to 16 characters of the default repertoire, no backslash, not all spaces (PS3.5 6.2)."""
    return (
        0 < len(text) <= 16
        and text.isascii()
        and text.isprintable()
        and "\\" not in text
        and text.strip() != ""
    )


def items(text: str) -> list[str]:
    return [item for item in map(str.strip, text.split(",")) if item]


def parse_ae_titles(text: str) -> tuple[str, ...]:
    titles = items(text)
    if not titles or not all(map(is_ae_title, titles)):
        raise InvalidValue
    return tuple(dict.fromkeys(titles))


def parse_networks(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    networks = []
    for item in items(text):
        try:
            networks.append(ip_network(item))
        except ValueError:
            try:
                meant = ip_network(item, strict=False)
            except ValueError:
                raise InvalidValue from None
            raise InvalidValue(f"bits of a host are set in it, is {meant} meant?") from None
    if not networks:
        raise InvalidValue
    return tuple(dict.fromkeys(networks))


def show_items(items: tuple[object, ...]) -> str:
    return ",".join(map(str, items))


def parse_path(text: str) -> Path:
    """Absolute; whether anything stands there is not asked."""
    return Path(text).absolute()


def parse_host(text: str) -> str:
    """A name or an address, without brackets; whether it can be bound to is not asked."""
    host = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if not re.fullmatch(r"[A-Za-z0-9._:%-]{1,255}", host):
        raise InvalidValue
    try:
        host.encode("idna")  # as whoever resolves it does
    except UnicodeError as error:
        raise InvalidValue("between dots stand 1 to 63 characters") from error
    return host


def parse_password(text: str) -> str:
    """Any text."""
    return text


def hidden(_: str) -> str:
    """Whatever its length."""
    return "***"


# ---- log levels ----------------------------------------------------------------------------

LOG_LEVELS: Final[Mapping[str, str]] = {
    "trace": "debug",
    "debug": "debug",
    "info": "info",
    "warn": "warning",
    "warning": "warning",
    "error": "error",
    "critical": "critical",
    "off": "critical",
}

_RUST_LEVELS: Final[Mapping[str, str]] = {
    **LOG_LEVELS,
    **dict(zip("012345", ("critical", "error", "warning", "info", "debug", "debug"), strict=True)),
}


def parse_rust_log(text: str) -> str:
    """The level for oxidicom in the directives of Rust's tracing: ours, else the bare one."""
    bare = ours = None
    for directive in items(text):
        target, equals, level = directive.rpartition("=")
        if not equals:
            if directive.lower() in _RUST_LEVELS:
                bare = _RUST_LEVELS[directive.lower()]
            elif directive == "oxidicom":  # a target alone means all of it
                ours = "debug"
        elif target.strip() == "oxidicom":
            if level.strip().lower() not in _RUST_LEVELS:
                raise InvalidValue("there is no such level")
            ours = _RUST_LEVELS[level.strip().lower()]
    return ours or bare or "info"


def parse_verbose(text: str) -> str:
    """The first generation's: verbose for whatever begins with y."""
    return "info" if text[0] in "yY" or parse_bool(text) else "warning"


def printable(text: str, longest: int = 100) -> str:
    """One line, whatever the text holds."""
    cut = text if len(text) <= longest else text[:longest] + "…"
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in cut
    )
