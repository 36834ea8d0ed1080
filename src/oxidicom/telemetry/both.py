"""Two who want to know, where the control plane tells one."""

from __future__ import annotations

from collections.abc import Callable

from oxidicom.observers import Telemetry


def both(first: Telemetry, second: Telemetry) -> Telemetry:
    """Passes everything on to `first`, then to `second`; what is asked is answered by the one who
    knows."""
    passing = Telemetry()
    for name in vars(Telemetry):
        if not name.startswith("_"):
            setattr(passing, name, _in_turn(getattr(first, name), getattr(second, name)))
    return passing


def _in_turn(first: Callable[..., object], second: Callable[..., object]) -> Callable[..., object]:
    def tell(*arguments: object, **named: object) -> object:
        answers = [each(*arguments, **named) for each in (first, second)]
        return next((answer for answer in answers if answer is not None), None)

    return tell
