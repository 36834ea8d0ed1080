"""The kernel knows our threads by their names."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from oxidicom.thread_names import NamedThread, name_this_thread, pool_thread_namer


def kernel_name() -> str:
    """Return the name of the calling thread as the kernel has it."""
    return Path(f"/proc/self/task/{threading.get_native_id()}/comm").read_text().rstrip()


def test_a_named_thread_has_its_name_in_the_kernel() -> None:
    seen: list[str] = []
    thread = NamedThread(target=lambda: seen.append(kernel_name()), name="ox-writer-0")
    thread.start()
    thread.join()
    assert seen == ["ox-writer-0"]


def test_the_kernel_keeps_the_first_15_bytes_of_a_name() -> None:
    seen: list[str] = []
    thread = NamedThread(target=lambda: seen.append(kernel_name()), name="ox-0123456789abcdef")
    thread.start()
    thread.join()
    assert seen == ["ox-0123456789ab"]


def test_threads_of_a_pool_are_numbered() -> None:
    both_run = threading.Barrier(2)

    def name(_: int) -> str:
        both_run.wait(10)
        return kernel_name()

    with ThreadPoolExecutor(2, initializer=pool_thread_namer("ox-pool")) as pool:
        assert sorted(pool.map(name, range(2))) == ["ox-pool-0", "ox-pool-1"]


def test_a_thread_runs_without_a_name_where_the_kernel_takes_none() -> None:
    seen: list[str] = []

    def rename() -> None:
        name_this_thread("no\0name" * 10_000)  # longer than the kernel takes at once
        seen.append("ran")

    thread = threading.Thread(target=rename)
    thread.start()
    thread.join()
    assert seen == ["ran"]
