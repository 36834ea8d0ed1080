"""Settings as text for people: the values in force, and the table in docs/settings.md."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from oxidicom.settings.model import Settings, variables
from oxidicom.settings.parsing import printable
from oxidicom.settings.variable import Variable


class Effective(NamedTuple):
    """One setting, as text, with the value that is in force."""

    name: str
    """Main name of its variable."""
    value: str
    """The value as it would be written in the environment, with secrets masked."""
    is_default: bool
    """Whether the value equals the default. False for the files root, which has no default."""


def effective(settings: Settings) -> list[Effective]:
    """Return every setting with the value in force, in order of declaration."""
    return [
        Effective(
            variable.name,
            _shown(variable, getattr(settings, field)),
            _is_default(settings, field),
        )
        for field, variable in variables().items()
    ]


def _is_default(settings: Settings, field: str) -> bool:
    if field == "files_root":
        return False
    # The default number of writer threads depends on fsync.
    fsync = settings.fsync and field != "fsync"
    defaults = Settings(files_root=settings.files_root, fsync=fsync)
    return bool(getattr(settings, field) == getattr(defaults, field))


def markdown_table() -> str:
    """Return a Markdown table of every setting, ending with a line feed.

    It is the same on every machine.
    """
    rows = [
        "| Variable | Value | Default | Meaning |",
        "|---|---|---|---|",
    ]
    for field in msgspec.structs.fields(Settings):
        variable = variables()[field.name]
        value_format = variable.format
        default = "required" if field.required else _default(variable, field.default)
        example = "" if default.startswith("`") else f", like `{value_format.example}`"
        further = ", ".join(f"`{name}`" for name in variable.names[1:])
        names = f" Also read: {further}." if further else ""
        rows.append(
            f"| `{variable.name}` | {value_format.expected}{example} | {default}"
            f" | {variable.meaning}{names} |"
        )
    return "\n".join(rows) + "\n"


def _shown(variable: Variable, value: Any) -> str:
    if value is None or value == ():
        return variable.format.none
    return printable(variable.format.show(value), max_length=4096)


def _default(variable: Variable, value: Any) -> str:
    if variable.default is not None:
        return variable.default
    shown = _shown(variable, value)
    return shown if value is None or value == () else f"`{shown}`"
