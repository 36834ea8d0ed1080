"""The Dockerfile as a list of stages, for tests that read it and for one that carries it out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]


class Instruction(NamedTuple):
    keyword: str
    arguments: str


def stages() -> list[list[Instruction]]:
    """Return the instructions of each stage, from its FROM on; continued lines are joined."""
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
    """Return the arguments of an instruction in the last stage, which is the image."""
    return [one.arguments for one in stages()[-1] if one.keyword == keyword]


def environment() -> dict[str, str]:
    """Return the environment variables that the image sets."""
    return dict(one.split("=", 1) for line in of_image("ENV") for one in line.split())
