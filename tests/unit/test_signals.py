"""Tests can start processes with default signals, even if the run itself ignores SIGINT."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import signal, subprocess, sys
from tests.support.signals import give_children_default_signals

signal.signal(signal.SIGINT, signal.SIG_IGN)
give_children_default_signals()
child = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
subprocess.run([sys.executable, "-c", child], check=True)
signal.raise_signal(signal.SIGINT)
print("still ignored here")
"""


def test_children_get_sigint_even_if_the_run_ignores_it() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["True", "still ignored here"]
