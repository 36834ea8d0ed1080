"""What is declared of one setting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True)
class ValueFormat:
    """A form of values: how to read it, how to ask for it, how to show it."""

    parse: Callable[[str], Any]
    """Raises Unfit."""
    expected: str
    """Completes "expected …"."""
    example: str
    show: Callable[[Any], str] = str
    mask: Callable[[str], str] | None = None
    """Hides the password that the text may hold."""
    none: str = "not set"
    """How None is shown."""


class Older(NamedTuple):
    """A name of an earlier generation, read only where no newer one is set."""

    name: str
    kind: ValueFormat | None = None
    """Where the older variable was written differently."""


@dataclass(frozen=True)
class Variable:
    """One setting's environment variable."""

    name: str
    kind: ValueFormat
    meaning: str
    """One line for the operator, in Markdown."""
    same: tuple[str, ...] = ()
    """Further names of equal rank: two that differ contradict each other."""
    older: tuple[Older, ...] = ()
    """In order of precedence."""
    default: str | None = None
    """In words, where it depends on something."""

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.same, *(each.name for each in self.older))
