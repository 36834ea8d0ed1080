"""Every test that docs/guarantees.md names exists, and every promise names some."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
DOCUMENT = ROOT / "docs" / "guarantees.md"

NAMED = re.compile(r"`([a-z]+/\w+\.py)::(test_\w+)`")
ANY_MENTION = re.compile(r"\btest_\w+")


def test_every_named_test_exists() -> None:
    named = NAMED.findall(DOCUMENT.read_text())
    assert named
    missing = [f"{file}::{name}" for file, name in named if name not in functions_of(TESTS / file)]
    assert missing == []


def test_no_test_is_named_in_another_form() -> None:
    """A test named in another form would not be checked."""
    rest = NAMED.sub("", DOCUMENT.read_text()).replace("`tests/unit/test_guarantees.py`", "")
    assert ANY_MENTION.findall(rest) == []


@pytest.mark.parametrize("number", range(1, 10))
def test_every_promise_has_limits_and_tests(number: int) -> None:
    text = DOCUMENT.read_text()
    start = text.index(f"\n### {number}. ")
    promise = text[start : text.index("\n##", start + 1)]
    assert "- **Limits.**" in promise
    assert NAMED.findall(promise.partition("- **Tests.**")[2])


def test_readme_leads_to_it_and_to_the_conformance_statement() -> None:
    readme = (ROOT / "README.md").read_text()
    assert "(docs/guarantees.md)" in readme
    assert "(docs/conformance.md)" in readme


@pytest.mark.parametrize("document", ["conformance.md", "guarantees.md"])
def test_links_lead_somewhere(document: str) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", (ROOT / "docs" / document).read_text())
    assert links
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []


@cache
def functions_of(file: Path) -> frozenset[str]:
    """Return the names of the functions and methods of a file, none where there is no file."""
    if not file.exists():
        return frozenset()
    return frozenset(
        node.name
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
