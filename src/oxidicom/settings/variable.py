"""The declaration of one setting: its environment variables and the format of their value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True)
class ValueFormat:
    """How a value is written in the environment: how to read it, describe it and show it."""

    parse: Callable[[str], Any]
    """Returns the value of a text; raises InvalidValueError."""
    expected: str
    """Completes the sentence "expected …"."""
    example: str
    show: Callable[[Any], str] = str
    """Returns the text of a value."""
    mask: Callable[[str], str] | None = None
    """Returns a text without the password that it may hold."""
    none: str = "not set"
    """The text that shows None."""


class OlderName(NamedTuple):
    """A variable's name in an earlier generation, read only where no newer one is set."""

    name: str
    format: ValueFormat | None = None
    """Set where the older variable was written differently."""


@dataclass(frozen=True)
class Variable:
    """The environment variable of one setting."""

    name: str
    format: ValueFormat
    meaning: str
    """One line for the operator, in Markdown."""
    synonyms: tuple[str, ...] = ()
    """Further names of equal rank. Two that are set to different values are an error."""
    older: tuple[OlderName, ...] = ()
    """Names of earlier generations, in order of precedence."""
    default: str | None = None
    """A description of the default, where it depends on other settings or on the machine."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that is read, the main one first."""
        return (self.name, *self.synonyms, *(each.name for each in self.older))
