"""Types to declare a setting: its environment variables and the format of their values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True)
class ValueFormat:
    """The format in which a setting is written in the environment."""

    parse: Callable[[str], Any]
    """Function that returns the value of a text, or raises InvalidValueError."""
    expected: str
    """Description of valid texts that completes the sentence "expected …"."""
    example: str
    """A valid text."""
    show: Callable[[Any], str] = str
    """Function that returns the text of a value, without secrets."""
    mask: Callable[[str], str] | None = None
    """Function that masks the secrets in a text, for error messages. If it is None, only the
    secrets of a URL are masked."""
    none: str = "not set"
    """Text that is shown for None and for an empty tuple."""


class OlderName(NamedTuple):
    """The name of a variable in an earlier generation. It is read only if no newer name is set."""

    name: str
    format: ValueFormat | None = None
    """Format of the older variable; None if it is that of the newer one."""


@dataclass(frozen=True)
class Variable:
    """The environment variable of one setting, with its other names and its meaning."""

    name: str
    format: ValueFormat
    meaning: str
    """Description of the setting for the operator: one line of Markdown."""
    synonyms: tuple[str, ...] = ()
    """Other names that are read like `name`. Two names that are set must have equal values."""
    older: tuple[OlderName, ...] = ()
    """Names of earlier generations, in order of precedence."""
    default: str | None = None
    """Description of the default if it depends on other settings or on the machine; None if the
    value itself is shown."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that is read, in order of precedence; `name` is the first."""
        return (self.name, *self.synonyms, *(each.name for each in self.older))
