"""The time limit of every test, as a plugin that tests/conftest.py registers.

pytest-timeout finds the limit of a test: `timeout` of pyproject.toml, `--timeout`, or the mark
`timeout`. What happens at the limit is decided here, because pytest-timeout itself leaves the
processes that a test has started, and stops its timer when a test fails, so that a teardown could
hang. At the limit the stacks of all threads are printed, every process that this one has started
is killed, and this process exits with status 1. Under pytest-xdist the test is then reported as
failed and the others run in a new process; without it the run ends.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import threading
import traceback
from typing import Any

import psutil
import pytest

EXIT_LIMIT_S = 60
"""Seconds that the interpreter may take to exit after the last test, before it is ended."""

_TIMER = pytest.StashKey[threading.Timer]()


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> bool:
    """Start the timer of a test; True keeps pytest-timeout from starting its own."""
    _stop(item)
    timer = threading.Timer(settings.timeout, _end, (item, settings.timeout))
    timer.name = f"time limit of {item.nodeid}"
    timer.daemon = True
    item.stash[_TIMER] = timer
    timer.start()
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Any:
    """Stop the timer after the teardown, whether the test has passed or not."""
    try:
        return (yield)
    finally:
        _stop(item)


def pytest_unconfigure() -> None:
    """Limit the exit of the interpreter, which waits for threads that are not daemons."""
    faulthandler.dump_traceback_later(EXIT_LIMIT_S, exit=True, file=sys.__stderr__ or sys.stderr)


def _stop(item: pytest.Item) -> None:
    timer = item.stash.get(_TIMER, None)
    if timer is not None:
        timer.cancel()
        timer.join()


def _end(item: pytest.Item, limit_s: float) -> None:
    from pytest_timeout import is_debugging  # whose hook has set the timer

    if is_debugging():
        return
    try:
        _report(item, limit_s)
    finally:
        kill_descendants()
        os._exit(1)


def _report(item: pytest.Item, limit_s: float) -> None:
    """Write the stacks to stderr, which reaches the terminal from pytest-xdist's processes too."""
    capture = item.config.pluginmanager.getplugin("capturemanager")
    captured: tuple[str, str] = ("", "")
    if capture is not None:
        capture.suspend_global_capture(in_=True)
        captured = capture.read_global_capture()
    parts = [f"++++ Timeout: {item.nodeid} has run for {limit_s:g} s\n"]
    for name, text in zip(("stdout", "stderr"), captured, strict=True):
        if text:
            parts.append(f"~~~~ Captured {name}\n{text}\n")
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        if ident != threading.get_ident():
            stack = "".join(traceback.format_stack(frame))
            parts.append(f"~~~~ Stack of {names.get(ident, 'an unknown thread')}\n{stack}")
    parts.append("++++ Timeout\n")
    with open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False) as stderr:
        stderr.write("\n" + "".join(parts))


def kill_descendants() -> None:
    """Kill every process that this one has started, and those that they have started.

    Each is stopped before its children are listed, so that none can start another meanwhile.
    """
    found: dict[int, psutil.Process] = {}
    while True:
        new = [one for one in psutil.Process().children(recursive=True) if one.pid not in found]
        if not new:
            break
        for process in new:
            found[process.pid] = process
            with contextlib.suppress(psutil.Error):
                process.suspend()
    for process in found.values():
        with contextlib.suppress(psutil.Error):
            process.kill()
