"""Wheel and sdist, built from nothing but the sources, hold what they must and run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VERSION: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
CORES = ("_pdu", "_dataset", "_writer")
USE = f"""
import pathlib, sys
import oxidicom, oxidicom._pdu, oxidicom._dataset, oxidicom._writer
assert oxidicom.__version__ == {VERSION!r}, oxidicom.__version__
print(pathlib.Path(oxidicom.__file__).parent)
"""


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Standard output; a failure shows all that the command said."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=inherited | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build(kind: str, tree: Path, output: Path) -> Path:
    """By the hook that pip itself calls (PEP 517); `kind` is wheel or sdist."""
    output.mkdir(exist_ok=True)
    hook = f"import setuptools.build_meta as hooks; hooks.build_{kind}({str(output)!r})"
    run(sys.executable, "-c", hook, cwd=tree)
    (built,) = output.iterdir()
    return built


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources as a clone has them: nothing generated, nothing compiled."""
    tree = tmp_path_factory.mktemp("tree") / "oxidicom"
    tree.mkdir()
    generated = shutil.ignore_patterns("*.so", "*.c", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", tree / "src", ignore=generated)
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    shutil.copy(ROOT / "CHANGELOG.md", tree)
    return tree


@pytest.fixture(scope="module")
def sdist(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", tree, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", tree, tmp_path_factory.mktemp("wheel"))


def install(package: Path, folder: Path) -> Path:
    """Python of a fresh environment that holds `package`, and finds what it depends on where the
    tests themselves do; nothing is fetched."""
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    paths = {"base": str(folder), "platbase": str(folder)}
    site = Path(sysconfig.get_path("purelib", "venv", paths))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    offline = ("--no-index", "--no-deps", "--no-build-isolation")
    run(
        *(python, "-m", "pip", "-q", "install", *offline, "--force-reinstall", package),
        cwd=folder,
        OXIDICOM_DEBUG="1",  # where this compiles: in half the time, and that build works too
    )
    return python


def check_that_it_runs(python: Path) -> None:
    folder = python.parents[1]
    assert Path(run(python, "-c", USE, cwd=folder).strip()).is_relative_to(folder)
    for command in ([python.with_name("oxidicom")], [python, "-m", "oxidicom"]):
        assert VERSION in run(*command, "version", cwd=folder)


def test_the_sdist_holds_the_sources_and_nothing_generated(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for core in CORES:
        assert {f"src/oxidicom/{core}.{suffix}" for suffix in ("pyx", "pxd", "pyi")} <= names
    assert {"setup.py", "LICENSE", "src/oxidicom/py.typed"} <= names
    assert "src/oxidicom/admin/page/index.html" in names
    assert not {name for name in names if name.endswith((".c", ".so", ".pyc"))}


def test_the_wheel_holds_cores_types_and_no_generated_code(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for core in CORES:
        assert f"oxidicom/{core}{sysconfig.get_config_var('EXT_SUFFIX')}" in names
        assert f"oxidicom/{core}.pyi" in names
    assert {"oxidicom/py.typed", "oxidicom/admin/page/index.html"} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not {name for name in names if name.endswith(".c") or name.startswith("tests")}


def test_the_wheel_holds_every_module(wheel: Path) -> None:
    source = ROOT / "src"
    modules = {str(path.relative_to(source)) for path in source.rglob("*.py")}
    with zipfile.ZipFile(wheel) as archive:
        assert modules <= set(archive.namelist())


def test_the_wheel_runs(wheel: Path, tmp_path: Path) -> None:
    check_that_it_runs(install(wheel, tmp_path / "venv"))


def test_the_sdist_builds_and_runs(sdist: Path, tmp_path: Path) -> None:
    check_that_it_runs(install(sdist, tmp_path / "venv"))
