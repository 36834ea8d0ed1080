"""The kernel knows our threads by their names."""

from __future__ import annotations

import re
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


SOURCE = Path(__file__).parents[2] / "src" / "oxidicom"


def names_in_source() -> tuple[set[str], set[str]]:
    """Return the names of pools, whose threads get a number, and those of single threads."""
    text = "\n".join(path.read_text() for path in SOURCE.rglob("*.py"))
    pools = set(re.findall(r'(?:DiskExecutor|pool_thread_namer)\(\s*"([^"]+)"', text))
    return pools, set(re.findall(r'f?"(ox-[^"]+)"', text)) - pools


def test_the_kernel_keeps_the_number_of_a_pool_s_thread() -> None:
    pools, others = names_in_source()
    assert pools
    assert [name for name in pools if len(f"{name}-0") > 15] == []
    assert [name for name in others if len(re.sub(r"\{.*?\}", "0", name)) > 15] == []


def test_the_documentation_has_every_thread_of_a_receiver() -> None:
    pools, others = names_in_source()
    receiver = {name for name in others if not name.startswith("ox-send")}
    page = (SOURCE.parents[1] / "docs" / "architecture.md").read_text()
    expected = {f"{name}-0" for name in pools}
    expected |= {re.sub(r"\{.*?\}", "", name) for name in receiver}
    assert [name for name in sorted(expected) if f"`{name}" not in page] == []
