"""Coverage-guided fuzzing of one target by libFuzzer, from within Python (Atheris).

usage: python -m tests.fuzz.run TARGET [libFuzzer's arguments]

`tools/fuzz` starts it with sanitizers in the compiled cores; without them it finds less.
"""

from __future__ import annotations

import logging
import sys

import atheris


def main() -> None:
    with atheris.instrument_imports(include=["oxidicom"]):
        from tests.fuzz.targets import TARGETS
    name, *arguments = sys.argv[1:] or [""]
    if name not in TARGETS:
        sys.exit(f"usage: python -m tests.fuzz.run {'|'.join(TARGETS)} [libFuzzer's arguments]")
    logging.disable()
    # As libFuzzer starts itself anew to merge, through a shell.
    command = f"{sys.executable} -m tests.fuzz.run {name}"
    atheris.Setup([command, *arguments], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
