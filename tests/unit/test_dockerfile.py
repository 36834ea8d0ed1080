"""The container image, as far as its Dockerfile tells without a daemon."""

from __future__ import annotations

import fnmatch
import json
import re
import tomllib
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]


class Instruction(NamedTuple):
    keyword: str
    arguments: str


def stages() -> list[list[Instruction]]:
    """Instructions by stage, each stage from its FROM on; continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    parted: list[list[Instruction]] = []
    for line in filter(None, lines):
        keyword, _, arguments = line.partition(" ")
        if keyword == "FROM":
            parted.append([])
        parted[-1].append(Instruction(keyword, arguments.strip()))
    return parted


def of_image(keyword: str) -> list[str]:
    """Arguments of an instruction in the last stage, which is the image."""
    return [one.arguments for one in stages()[-1] if one.keyword == keyword]


def ignored(name: str) -> bool:
    """By .dockerignore, whose last matching line decides."""
    verdict = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!").removeprefix("**/")
        if line and not line.startswith("#") and fnmatch.fnmatch(name, pattern):
            verdict = not line.startswith("!")
    return verdict


def test_the_compiler_stays_in_the_builder() -> None:
    builder, image = stages()
    assert any("gcc" in one.arguments for one in builder)
    assert not any(re.search(r"gcc|apt-get|\bcc\b", one.arguments) for one in image)
    assert (
        builder[0].arguments.split(" AS ")[0]
        == image[0].arguments
        == (
            "python:3.11-slim-bookworm"  # one interpreter and one C library for wheel and image
        )
    )


def test_the_image_installs_what_the_builder_built_and_fetches_nothing() -> None:
    builder, _ = stages()
    assert builder[0].arguments.endswith(" AS builder")
    assert any("pip wheel" in run.arguments for run in builder)
    (install,) = [run for run in of_image("RUN") if "pip install" in run]
    assert "from=builder" in install
    assert "--no-index" in install
    assert not any("--from" not in copy for copy in of_image("COPY"))


def test_it_runs_as_nobody_special_and_can_write_its_data() -> None:
    (user,) = of_image("USER")
    uid, gid = user.split(":")  # numbers: Kubernetes' runAsNonRoot cannot look names up
    assert int(uid) > 0
    assert int(gid) > 0
    assert any(f"-o {uid} -g {gid} /data" in run for run in of_image("RUN"))
    assert "OXIDICOM_FILES_ROOT=/data" in of_image("ENV")[0]


def test_signals_reach_the_receiver_itself() -> None:
    assert of_image("STOPSIGNAL") == ["SIGTERM"]
    (entry,) = of_image("ENTRYPOINT")
    (command,) = of_image("CMD")
    script = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert json.loads(entry) == list(script)  # a list: no shell between
    assert json.loads(command) == ["serve"]


def test_the_port_is_the_default_one() -> None:
    assert of_image("EXPOSE") == ["11111 2762"]


def test_what_the_build_copies_is_there_and_reaches_it() -> None:
    copied = [
        name
        for stage in stages()
        for one in stage
        if one.keyword == "COPY" and "--from" not in one.arguments
        for name in one.arguments.split()[:-1]
    ]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"pyproject.toml", "setup.py", "MANIFEST.in", "src"} <= set(copied)
    assert {project["readme"], *project["license-files"]} <= set(copied)
    for name in copied:
        assert (ROOT / name).exists(), name
        assert not ignored(name), name


def test_nothing_else_of_a_working_tree_reaches_the_build() -> None:
    for name in (".git", ".venv", "data", "tests", "build", "_pdu.so", "__pycache__"):
        assert ignored(name), name
