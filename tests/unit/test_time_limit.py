"""The time limit of tests: what happens to a test that hangs, seen from outside a run of pytest."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import psutil

from tests.support.receiver import wait_until

PROJECT = Path(__file__).parents[2]

HANGING_TESTS = '''\
"""Tests that each hang in another way, between two that pass."""
import asyncio, subprocess, sys, threading, time
from pathlib import Path
import pytest

PARENTS = []
PARENT = """
import subprocess, sys, time
print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)']).pid, flush=True)
time.sleep(300)
"""

@pytest.fixture
def children():
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE)
    PARENTS.append(parent)
    with open(Path(__file__).with_name("pids"), "a") as file:
        print(parent.pid, int(parent.stdout.readline()), file=file)

def wait_for_nothing():
    threading.Event().wait()

def test_before():
    pass

def test_whose_threads_hang(children):
    print("printed before the hang")
    threading.Thread(target=wait_for_nothing, name="a thread of the test", daemon=True).start()
    time.sleep(300)

async def test_that_ignores_cancellation(children):
    while True:
        try:
            await asyncio.sleep(300)
        except asyncio.CancelledError:
            pass

@pytest.fixture
def hanging_teardown(children):
    yield
    time.sleep(300)

def test_that_fails_and_hangs_in_its_teardown(hanging_teardown):
    assert False

@pytest.mark.timeout(60)
def test_with_a_limit_of_its_own():
    time.sleep(2.5)

def test_after():
    pass
'''

HANGING_EXIT = """\
import threading
from tests.support import time_limit

def test_that_leaves_a_thread():
    time_limit.EXIT_LIMIT_S = 1
    threading.Thread(target=threading.Event().wait).start()
"""


def environment() -> dict[str, str]:
    """Return ours without what this run of pytest has set for itself."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}


def run_pytest(folder: Path, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest with our time limit on a file of these tests."""
    file = folder / "test_hanging.py"
    file.write_text(text)
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-c", str(PROJECT / "pyproject.toml")),
            *("-p", "tests.support.time_limit", "-p", "no:cacheprovider"),
            *("--rootdir", str(folder), "--basetemp", str(folder / "temporary")),
            *(*arguments, str(file)),
        ],
        cwd=PROJECT,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
    )


def is_running(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def started_processes(folder: Path) -> list[int]:
    return [int(pid) for pid in (folder / "pids").read_text().split()]


def wait_until_ended(pids: list[int]) -> None:
    """Wait for processes that have been killed: the kernel ends them a moment later."""
    assert pids
    wait_until(lambda: not any(map(is_running, pids)), "the processes of the test to end")


def test_a_test_that_hangs_fails_and_the_others_run(tmp_path: Path) -> None:
    run = run_pytest(tmp_path, HANGING_TESTS, "-n1", "--timeout=1.5")
    assert run.returncode == 1, run.stdout
    ended = re.findall(r"has run for 1\.5 s", run.stdout)
    crashed = re.findall(r"crashed while running '.*::(\w+)'", run.stdout)
    assert len(ended) == 3, run.stdout
    assert set(crashed) == {
        "test_whose_threads_hang",
        "test_that_ignores_cancellation",
        "test_that_fails_and_hangs_in_its_teardown",
    }
    assert re.search(r"\b3 passed\b", run.stdout), run.stdout
    pids = started_processes(tmp_path)
    assert len(pids) == 6
    wait_until_ended(pids)


def test_the_stacks_of_all_threads_are_printed(tmp_path: Path) -> None:
    run = run_pytest(tmp_path, HANGING_TESTS, "-n0", "--timeout=1.5", "-k", "threads")
    assert run.returncode == 1
    assert "Stack of MainThread" in run.stdout
    assert "in test_whose_threads_hang" in run.stdout
    assert "Stack of a thread of the test" in run.stdout
    assert "in wait_for_nothing" in run.stdout
    assert "printed before the hang" in run.stdout
    wait_until_ended(started_processes(tmp_path))


def test_a_run_that_cannot_exit_is_ended(tmp_path: Path) -> None:
    run = run_pytest(tmp_path, HANGING_EXIT, "-n0")
    assert "1 passed" in run.stdout
    assert run.returncode == 1
    assert "in _shutdown" in run.stdout


def test_the_long_trials_have_limits_of_their_own(tmp_path: Path) -> None:
    show_limits = tmp_path / "show_limits.py"
    show_limits.write_text(
        "def pytest_collection_finish(session):\n"
        "    for item in session.items:\n"
        "        (mark,) = item.iter_markers('timeout')\n"
        "        print('limit', item.name, mark.args[0])\n"
    )
    listed = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-n0", "-p", "show_limits", "-p", "no:cacheprovider"),
            *("--collect-only", "--long", "tests/adversity"),
        ],
        cwd=PROJECT,
        env=environment() | {"PYTHONPATH": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    ).stdout
    limits = dict(re.findall(r"limit (\S+) (\d+)", listed))
    assert limits["test_memory_and_file_descriptors_are_flat[2]"] == "7200"
    assert set(limits.values()) == {"1800", "7200"}
