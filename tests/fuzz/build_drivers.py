"""Builds `drivers.pyx` as the module `fuzz_drivers`, by the environment's CC, CFLAGS and LDFLAGS.

usage: python -m tests.fuzz.build_drivers FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Distribution, Extension

ROOT = Path(__file__).parents[2]


def build(folder: Path) -> None:
    """Put the module into `folder`, and what is made on the way beside it."""
    extensions = cythonize(
        [Extension("fuzz_drivers", [str(ROOT / "tests/fuzz/drivers.pyx")])],
        include_path=[str(ROOT / "src")],
        build_dir=str(folder / "fuzz_drivers"),
        quiet=True,
    )
    command = Distribution({"ext_modules": extensions}).get_command_obj("build_ext")
    command.build_lib, command.build_temp = str(folder), str(folder / "fuzz_drivers")
    command.ensure_finalized()
    command.run()


if __name__ == "__main__":
    build(Path(sys.argv[1]).absolute())
