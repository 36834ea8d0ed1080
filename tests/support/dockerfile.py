"""The Dockerfile as a list of stages, for tests that read it and for one that carries it out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]


class Instruction(NamedTuple):
    keyword: str
    arguments: str


def build_arguments() -> dict[str, str]:
    """Return the build arguments, declared before the first stage, with their defaults."""
    head = re.split(r"^FROM ", _instructions(), maxsplit=1, flags=re.MULTILINE)[0]
    return dict(line.removeprefix("ARG ").split("=", 1) for line in head.split("\n") if line)


def stages(**arguments: str) -> list[list[Instruction]]:
    """Return the instructions by stage, each stage from its FROM on; continued lines are joined.

    `arguments` are those of `--build-arg`; each takes its place in the instructions.
    """
    text = _instructions()
    for name, value in (build_arguments() | arguments).items():
        text = text.replace(f"${{{name}}}", value)
    parted: list[list[Instruction]] = []
    for line in filter(None, text.splitlines()):
        keyword, _, rest = line.partition(" ")
        if keyword == "FROM":
            parted.append([])
        if parted:
            parted[-1].append(Instruction(keyword, rest.strip()))
    return parted


def _instructions() -> str:
    """Return the Dockerfile without comments, one instruction a line."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    return re.sub(r"\\\n\s*", "", text)


def of_image(keyword: str) -> list[str]:
    """Return the arguments of an instruction in the last stage, which is the image."""
    return [one.arguments for one in stages()[-1] if one.keyword == keyword]


def environment() -> dict[str, str]:
    """Return the environment variables that the image sets."""
    return dict(one.split("=", 1) for line in of_image("ENV") for one in line.split())
