"""The container image, as far as its Dockerfile shows without a daemon."""

from __future__ import annotations

import fnmatch
import json
import re
import tomllib

from tests.support.dockerfile import ROOT, build_arguments, environment, of_image, stages


def ignored(name: str) -> bool:
    """Return whether .dockerignore excludes a file; its last matching line decides."""
    verdict = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!").removeprefix("**/")
        if line and not line.startswith("#") and fnmatch.fnmatch(name, pattern):
            verdict = not line.startswith("!")
    return verdict


def test_nothing_but_the_package_and_what_it_runs_on_is_in_the_image() -> None:
    builder, root, image = stages()
    assert any("gcc" in one.arguments.split() for one in builder)
    assert not any({"gcc", "binutils"} & set(one.arguments.split()) for one in root)
    assert builder[0].arguments == "debian:trixie-slim AS builder"
    assert root[0].arguments == "debian:trixie-slim AS root"  # one interpreter, one C library
    assert image[0].arguments == "scratch"
    assert not of_image("RUN")
    assert all(copy.startswith("--from=root ") for copy in of_image("COPY"))


def test_every_stage_declares_the_build_arguments_that_it_uses() -> None:
    """Without its own ARG, a stage finds the argument empty."""
    text = (ROOT / "Dockerfile").read_text()
    for stage in re.split(r"^FROM .*\n", text, flags=re.MULTILINE)[1:]:
        used = {name for name in build_arguments() if f"${{{name}}}" in stage}
        assert set(re.findall(r"^ARG (\w+)$", stage, re.MULTILINE)) == used
    assert all(f"${{{name}}}" in text for name in build_arguments())


def test_what_is_installed_is_what_was_built() -> None:
    builder, _, _ = stages()
    runs = [one.arguments for one in builder if one.keyword == "RUN"]
    assert any("pip wheel" in run and "--wheel-dir /wheels" in run for run in runs)
    (install,) = [run for run in runs if " install " in run and "pip" in run and "apt" not in run]
    assert "--no-index" in install
    assert "--find-links /wheels" in install


def test_the_image_runs_unprivileged_and_can_write_its_data() -> None:
    (user,) = of_image("USER")
    uid, gid = user.split(":")  # numbers: Kubernetes' runAsNonRoot cannot look names up
    assert int(uid) > 0
    assert int(gid) > 0
    assert f"--from=root --chown={user} /data /data" in of_image("COPY")
    assert environment()["OXIDICOM_FILES_ROOT"] == "/data"


def test_the_image_has_a_health_check() -> None:
    (check,) = of_image("HEALTHCHECK")
    command = json.loads(check.partition("CMD ")[2])  # a list: there is no shell
    assert command == ["oxidicom", "status", "--quiet"]
    assert environment()["OXIDICOM_ADMIN_PORT"] == "11180"
    assert "OXIDICOM_ADMIN_HOST" not in environment()  # its default is 127.0.0.1


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
