"""What several commands say to the person at the terminal."""

from __future__ import annotations

import os
import sys
from typing import Final

from oxidicom.errors import OperatorError
from oxidicom.settings import Settings, load

EXIT_SETTINGS: Final = 2


def complain(line: str) -> None:
    print(f"oxidicom: {line}", file=sys.stderr)


def warn(line: str) -> None:
    complain(f"warning: {line}")


def settings_of_environment(*, say_warnings: bool = True) -> tuple[Settings, list[str]] | None:
    """The settings and their warnings, which are on stderr if `say_warnings`; None if faults
    are."""
    try:
        settings, warnings = load(os.environ)
    except OperatorError as error:
        for fault in error.faults:
            complain(fault)
        for note in getattr(error, "__notes__", ()):
            warn(note)
        return None
    if say_warnings:
        for warning in warnings:
            warn(warning)
    return settings, warnings
