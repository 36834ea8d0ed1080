"""Two who want to know, where the control plane tells one."""

from __future__ import annotations

from collections.abc import Callable

from oxidicom.telemetry.base import Telemetry


def both(first: Telemetry, second: Telemetry) -> Telemetry:
    """Passes everything on to `first`, then to `second`."""
    passing = Telemetry()
    for name in vars(Telemetry):
        if not name.startswith("_"):
            setattr(passing, name, _in_turn(getattr(first, name), getattr(second, name)))
    return passing


def _in_turn(first: Callable[..., None], second: Callable[..., None]) -> Callable[..., None]:
    def tell(*arguments: object, **named: object) -> None:
        first(*arguments, **named)
        second(*arguments, **named)

    return tell
