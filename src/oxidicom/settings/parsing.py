"""Converts the text of an environment variable to a value, and a value to text for a person.

Every parser expects text that is not empty and has no white space around it. It raises
InvalidValueError if the text is invalid. No error text repeats a value that may be secret.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Final


class InvalidValueError(ValueError):
    """A value is invalid for its setting.

    The text says why. It is empty if the value format's `expected` says enough.
    """


_TRUE: Final = frozenset(("true", "yes", "on", "1"))
_FALSE: Final = frozenset(("false", "no", "off", "0"))


def parse_bool(text: str) -> bool:
    """Parse true, yes, on and 1 as True, and false, no, off and 0 as False.

    Upper and lower case are equivalent.
    """
    word = text.lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise InvalidValueError


def show_bool(value: bool) -> str:
    """Return the text true or false."""
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
"""Nanoseconds in each unit of time, by name. The names are those of the Rust crate humantime, by
which the reference reads durations. `M` is a month, `m` a minute."""

_DURATION_PART: Final = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,20})?)[ \t]*([^\W\d_]+)[ \t]*")
_BARE_NUMBER: Final = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
_MAX_DURATION_NS: Final = 100 * _NANOSECONDS["y"]
"""Greatest duration: 100 years in nanoseconds. Added to a clock, it still fits into the integers of
the event loop and the kernel."""


def parse_duration(text: str) -> float:
    """Parse pairs of number and unit such as `1m 30s`; return seconds, at most 100 years."""
    if _BARE_NUMBER.fullmatch(text):
        raise InvalidValueError("a unit is missing")
    total = Fraction(0)
    position = 0
    while position < len(text):
        part = _DURATION_PART.match(text, position)
        if part is None:
            raise InvalidValueError
        number, unit = part.groups()
        if unit not in _NANOSECONDS:
            raise InvalidValueError(
                "unknown unit of time: write ns, us, ms, s, m, h, d, w, M (month) or y"
            )
        total += Fraction(number) * _NANOSECONDS[unit]
        position = part.end()
    if total > _MAX_DURATION_NS:
        raise InvalidValueError("longer than 100 years")
    return float(total / 10**9)


def parse_time_limit(text: str) -> float:
    """Parse a duration above 0; return seconds. A limit of 0 would end everything at once."""
    seconds = parse_duration(text)
    if seconds <= 0:
        raise InvalidValueError("a time limit must be above 0s")
    return seconds


def show_duration(seconds: float) -> str:
    """Return a text such as `1m 30s` that `parse_duration` reads back, exact to the nanosecond."""
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


def integer_parser(low: int, high: int | None = None) -> Callable[[str], int]:
    """Return a parser of whole numbers from `low` to `high`; None is no upper bound."""

    def parse(text: str) -> int:
        if not _INTEGER.fullmatch(text):
            raise InvalidValueError
        value = int(text)
        if value < low or (high is not None and value > high):
            raise InvalidValueError
        return value

    return parse


def parse_port(text: str) -> int | None:
    """Parse a port from 0 to 65535; return None for `off`, in upper or lower case."""
    return None if text.lower() == "off" else integer_parser(0, 65535)(text)


def parse_size(text: str) -> int:
    """Parse a size such as `64MiB` or `1024`, in upper or lower case; return bytes below 2**63."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise InvalidValueError
    number, unit = match.groups()
    value = Fraction(number) * (_SIZE_UNITS[unit.lower()] if unit else 1)
    if value.denominator != 1:
        raise InvalidValueError("not a whole number of bytes")
    if value >= 1 << 63:
        raise InvalidValueError("2**63 bytes or more")
    return int(value)


def size_parser(
    low: int, high: int | None = None, *, or_zero: bool = False
) -> Callable[[str], int]:
    """Return a parser of sizes from `low` to `high` bytes; it also accepts 0 if `or_zero` is True.

    If `high` is None, only the limit of `parse_size` applies.
    """

    def parse(text: str) -> int:
        value = parse_size(text)
        if or_zero and value == 0:
            return value
        if value < low or (high is not None and value > high):
            raise InvalidValueError
        return value

    return parse


def show_size(value: int) -> str:
    """Return a size as text in the greatest binary unit that divides it, such as `64MiB`."""
    for unit, factor in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if value and value % factor == 0:
            return f"{value // factor}{unit}"
    return str(value)


# ---- words ---------------------------------------------------------------------------------


def word_parser(words: Mapping[str, str]) -> Callable[[str], str]:
    """Return a parser that accepts each key of `words`, in upper or lower case.

    The parser returns the value of the key.

    The keys must be in lower case.
    """

    def parse(text: str) -> str:
        try:
            return words[text.lower()]
        except KeyError:
            raise InvalidValueError from None

    return parse


def text_parser(max_bytes: int) -> Callable[[str], str]:
    """Return a parser that accepts printable text of at most `max_bytes` bytes in UTF-8."""

    def parse(text: str) -> str:
        if not text.isprintable():
            raise InvalidValueError("it contains characters that cannot be printed")
        if len(text.encode()) > max_bytes:
            raise InvalidValueError(f"longer than {max_bytes} bytes")
        return text

    return parse


def parse_subject(text: str) -> str:
    """Return a NATS subject as written: non-empty parts between dots, without spaces and wildcards.

    It has at most 255 bytes.
    """
    parse = text_parser(255)
    if not all(parse(text).split(".")) or any(each in " *>" for each in text):
        raise InvalidValueError("a subject has no spaces, *, > or empty parts between dots")
    return text


def is_ae_title(text: str) -> bool:
    """Return whether `text` is an AE title (PS3.5 6.2): 1 to 16 printable ASCII characters, no
    backslash, not only spaces."""
    return (
        0 < len(text) <= 16
        and text.isascii()
        and text.isprintable()
        and "\\" not in text
        and text.strip() != ""
    )


def items(text: str) -> list[str]:
    """Return the parts of `text` separated by commas, without white space and empty parts."""
    return [item for item in map(str.strip, text.split(",")) if item]


def parse_ae_titles(text: str) -> tuple[str, ...]:
    """Parse AE titles separated by commas; a repeated one is returned once."""
    titles = items(text)
    if not titles or not all(map(is_ae_title, titles)):
        raise InvalidValueError
    return tuple(dict.fromkeys(titles))


def parse_networks(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """Parse networks in CIDR notation, separated by commas; a repeated one is returned once."""
    networks = []
    for item in items(text):
        try:
            networks.append(ip_network(item))
        except ValueError:
            try:
                meant = ip_network(item, strict=False)
            except ValueError:
                raise InvalidValueError from None
            raise InvalidValueError(f"its host bits are not zero; did you mean {meant}?") from None
    if not networks:
        raise InvalidValueError
    return tuple(dict.fromkeys(networks))


def show_items(items: tuple[object, ...]) -> str:
    """Return the texts of the items, joined by commas."""
    return ",".join(map(str, items))


def parse_path(text: str) -> Path:
    """Return an absolute path; it need not exist, and symbolic links are kept."""
    return Path(text).absolute()


def parse_host(text: str) -> str:
    """Return a host's name or address without brackets around it; it need not resolve."""
    host = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if not re.fullmatch(r"[A-Za-z0-9._:%-]{1,255}", host):
        raise InvalidValueError
    try:
        host.encode("idna")  # the resolver does the same
    except UnicodeError as error:
        raise InvalidValueError("each part between dots has 1 to 63 characters") from error
    return host


def parse_password(text: str) -> str:
    """Return the text unchanged: any text is a valid password."""
    return text


def hide(_: str) -> str:
    """Return *** for any text, so that not even its length is shown."""
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
    """Return the log level in directives of Rust's `tracing`, such as `warn,oxidicom=debug`.

    It is the level of the target oxidicom, otherwise the one without a target, otherwise info.
    """
    bare = ours = None
    for directive in items(text):
        target, equals, level = directive.rpartition("=")
        if not equals:
            if directive.lower() in _RUST_LEVELS:
                bare = _RUST_LEVELS[directive.lower()]
            elif directive == "oxidicom":  # a target alone enables every level
                ours = "debug"
        elif target.strip() == "oxidicom":
            if level.strip().lower() not in _RUST_LEVELS:
                raise InvalidValueError("it is not a level")
            ours = _RUST_LEVELS[level.strip().lower()]
    return ours or bare or "info"


def parse_verbose(text: str) -> str:
    """Return the log level for CHRIS_VERBOSE of the first generation: info for true, else warning.

    Any text that begins with y is true; others are parsed by `parse_bool`.
    """
    return "info" if text[0] in "yY" or parse_bool(text) else "warning"


def printable(text: str, max_length: int = 100) -> str:
    """Return `text` as one printable line.

    It is cut after `max_length` characters; those that are not printable are escaped.
    """
    cut = text if len(text) <= max_length else text[:max_length] + "…"
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in cut
    )
