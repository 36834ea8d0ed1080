"""File systems of a test's own, where this machine allows mounting; otherwise the test is
skipped."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def _run(*command: str | Path) -> None:
    """Run a command, and skip the test if it fails."""
    program = shutil.which(str(command[0]), path="/usr/sbin:/sbin:/usr/bin:/bin")
    if program is None:
        pytest.skip(f"{command[0]} is not installed")
    result = subprocess.run([program, *command[1:]], capture_output=True, text=True, check=False)
    if result.returncode:
        pytest.skip(f"{command[0]} is not for us here: {result.stderr.strip()}")


@contextmanager
def _mounted(folder: Path, *arguments: str | Path) -> Iterator[Path]:
    folder.mkdir()
    _run("mount", *arguments, folder)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def small_file_system(folder: Path, mebibytes: int) -> Iterator[Path]:
    """Mount a tmpfs of a size on `folder`."""
    with _mounted(folder, "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs") as mounted:
        yield mounted


@contextmanager
def file_system_to_freeze(folder: Path, image: Path, mebibytes: int) -> Iterator[Path]:
    """Mount an ext4 of a file on `folder`; see `frozen`."""
    with image.open("wb") as file:
        file.truncate(mebibytes << 20)
    _run("mkfs.ext4", "-q", "-F", image)
    with _mounted(folder, "-o", "loop", image) as mounted:
        yield mounted


@contextmanager
def frozen(mounted: Path) -> Iterator[None]:
    """Freeze a file system: processes that write to it wait until the end, and cannot even be
    killed."""
    _run("fsfreeze", "--freeze", mounted)
    try:
        yield
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", mounted], check=True)


class Ballast:
    """A file that takes all the space that is left."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "ballast"

    def fill(self) -> None:
        """Fill the file system to the last byte."""
        with self._path.open("ab", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    continue

    def drop(self) -> None:
        self._path.unlink()
