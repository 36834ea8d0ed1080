"""The sdist, built from the sources alone, and the wheel built from it have the right contents; the
wheel runs without a compiler on any Linux of its tag, and in the image."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import container
from tests.support.container import Container
from tests.support.dockerfile import of_image

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
    """Run a command and return its standard output; a failure shows all of its output."""
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
    """Build a wheel or an sdist by the hook that pip itself calls (PEP 517)."""
    output.mkdir(exist_ok=True)
    hook = f"import setuptools.build_meta as hooks; hooks.build_{kind}({str(output)!r})"
    run(sys.executable, "-c", hook, cwd=tree)
    (built,) = output.iterdir()
    return built


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the sources as a clone has them: nothing generated, nothing compiled."""
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
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel as pip does from an sdist; compiling takes half of these tests' time."""
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        # Debian 12's Python 3.11.2 knows no filters; later ones warn without one.
        filters = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(unpacked, **filters)  # type: ignore[arg-type]
    (tree,) = unpacked.iterdir()
    return build("wheel", tree, tmp_path_factory.mktemp("wheel"))


def install(package: Path, folder: Path, **environment: str) -> Path:
    """Return the Python of a new environment that holds `package`, and finds its dependencies where
    the tests themselves do; nothing is downloaded."""
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    paths = {"base": str(folder), "platbase": str(folder)}
    site = Path(sysconfig.get_path("purelib", "venv", paths))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    offline = ("--no-index", "--no-deps")
    run(
        *(python, "-m", "pip", "-q", "install", *offline, "--force-reinstall", package),
        cwd=folder,
        **environment,
    )
    return python


def check_that_it_runs(python: Path) -> None:
    folder = python.parents[1]
    assert Path(run(python, "-c", USE, cwd=folder).strip()).is_relative_to(folder)
    for command in ([python.with_name("oxidicom")], [python, "-m", "oxidicom"]):
        assert VERSION in run(*command, "version", cwd=folder)
    run(python, ROOT / "tools" / "try-wheel", cwd=folder)


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
    page = source / "oxidicom/admin/page"
    files = [*source.rglob("*.py"), *(one for one in page.iterdir() if one.is_file())]
    modules = {str(path.relative_to(source)) for path in files}
    with zipfile.ZipFile(wheel) as archive:
        assert modules <= set(archive.namelist())


def test_the_wheel_runs(wheel: Path, tmp_path: Path) -> None:
    check_that_it_runs(install(wheel, tmp_path / "venv"))


# ---- a wheel for other machines ------------------------------------------------------------------


@pytest.fixture(scope="module")
def audited(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel as the program makes it with which `make wheel` ends."""
    folder = tmp_path_factory.mktemp("audited")
    run(ROOT / "tools" / "audited-wheel", wheel, folder, cwd=folder, PYTHON=sys.executable)
    (audited,) = folder.iterdir()
    return audited


def test_an_audited_wheel_says_where_it_runs(audited: Path) -> None:
    tag = re.search(r"-manylinux_2_(\d+)_[a-z0-9_]+\.whl$", audited.name)
    assert tag, audited.name
    with zipfile.ZipFile(audited) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith("/WHEEL"))
        assert f"-manylinux_2_{tag[1]}_" in archive.read(metadata).decode()
        # Only the C library is linked to, so that no library is copied into the wheel.
        assert not [name for name in archive.namelist() if ".libs/" in name]


def test_an_audited_wheel_needs_no_compiler(audited: Path, tmp_path: Path) -> None:
    python = install(audited, tmp_path / "venv", PATH=str(tmp_path / "nothing"))
    check_that_it_runs(python)


# ---- the image -----------------------------------------------------------------------------------

CT_SMALL = Path(sysconfig.get_path("purelib"), "pydicom/data/test_files/CT_small.dcm")


@pytest.fixture(scope="module")
def image(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    container.demand(tmp_path_factory.mktemp("overlay"))
    folder = tmp_path_factory.mktemp("image")
    yield container.build_image(wheel, folder)
    shutil.rmtree(folder)


def test_the_image_holds_no_shell_no_compiler_and_no_package_manager(image: Path) -> None:
    programs = {path.name for path in image.glob("**/bin/*")}
    assert "oxidicom" in programs
    assert not programs & {"sh", "bash", "cc", "gcc", "apt-get", "dpkg", "perl", "pip"}
    assert not [
        path for path in image.rglob("*") if path.is_file() and path.stat().st_mode & 0o6000
    ]
    assert len(list((image / "var/lib/dpkg/status.d").iterdir())) >= 10  # for scanners


def test_the_image_receives_is_healthy_and_ends_as_process_1(image: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    as_replica = {
        "OXIDICOM_LOG_FORMAT": "json",
        "OXIDICOM_ADMIN_HOST": "0.0.0.0",
        "OXIDICOM_STATE_DIR": "/data/.oxidicom/state/oxidicom-0",
    }
    with Container(image, data, from_json("ENTRYPOINT") + from_json("CMD"), **as_replica) as own:
        own.wait_for('"listening"')
        status = Path(f"/proc/{own.first.pid}/status").read_text()
        assert re.search(r"^NSpid:\t\d+\t1$", status, re.MULTILINE)
        assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE)
        assert own.first.uids().effective == 1001

        sent = own.beside("storescu", "-aec", "ChRIS", "127.0.0.1", "11111", CT_SMALL)
        assert sent.returncode == 0, sent.stdout + sent.stderr
        (stored,) = (data / "SERVICES/PACS").rglob("*.dcm")
        assert stored.stat().st_uid == 1001

        health = own.execute(*from_json("HEALTHCHECK"))
        assert health.returncode == 0, health.stderr
        for path in ("livez", "readyz"):  # from another address than its own loopback's first
            ask = f"import urllib.request as r; r.urlopen('http://127.0.0.2:11180/{path}')"
            asked = own.beside(sys.executable, "-c", ask)
            assert asked.returncode == 0, asked.stderr

        written = own.execute("python", "-c", "open('/written', 'w')")
        assert "Read-only file system" in written.stderr
        assert own.terminate(timeout=30) == 0
    (waiting,) = (data / ".oxidicom/state/oxidicom-0/outbox").glob("*.json")
    assert waiting.stat().st_uid == 1001


def from_json(keyword: str) -> list[str]:
    """Return the words of an instruction that names a program without a shell."""
    (told,) = of_image(keyword)
    words: list[str] = json.loads(told[told.index("[") :])
    return words
