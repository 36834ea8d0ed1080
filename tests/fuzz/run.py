"""Coverage-guided fuzzing of one target by libFuzzer, from within Python (Atheris).

usage: python -m tests.fuzz.run TARGET [libFuzzer's arguments]

`tools/fuzz` starts it with sanitizers in the compiled cores; without them it finds less.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable
from importlib import import_module

import atheris

FAST = "fast_"
"""Begins the name of a target of `drivers.pyx`."""


def main() -> None:
    name, *arguments = sys.argv[1:] or [""]
    target = target_of(name)
    if target is None:
        sys.exit("usage: python -m tests.fuzz.run TARGET [libFuzzer's arguments]")
    logging.disable()
    sys.unraisablehook = fail
    # As libFuzzer starts itself anew to merge, through a shell.
    command = f"{sys.executable} -m tests.fuzz.run {name}"
    atheris.Setup([command, *arguments], target)
    atheris.Fuzz()


def fail(lost: sys.UnraisableHookArgs) -> None:
    """Report an exception that a compiled function cannot raise as a finding, too."""
    traceback.print_exception(lost.exc_type, lost.exc_value, lost.exc_traceback)
    os.abort()


def target_of(name: str) -> Callable[[bytes], None] | None:
    if name.startswith(FAST):
        # Only the cores are covered: what they call in Python is there to compare with.
        return getattr(import_module("fuzz_drivers"), name.removeprefix(FAST), None)
    with atheris.instrument_imports(include=["oxidicom"]):
        from tests.fuzz.targets import TARGETS
    return TARGETS.get(name)


if __name__ == "__main__":
    main()
