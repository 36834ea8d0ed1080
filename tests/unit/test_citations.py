"""Every decision, promise, section and file that source, tests and documents cite exists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DECISIONS = ROOT / "docs" / "decisions.md"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
GUARANTEES = ROOT / "docs" / "guarantees.md"
README = ROOT / "README.md"

FOLDERS = ("src", "tests", "docs", "deploy", "tools", "benchmarks", "samples")
FILES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile", "Dockerfile", "setup.py")
SUFFIXES = {".py", ".pyx", ".pxd", ".pxi", ".pyi", ".md", ".yaml", ".html", ".js", ".css", ""}

NUMBERS = r"\d+(?:(?:\s*,\s*and\s+|\s*(?:,|–|-)\s*|\s+(?:and|to|or)\s+)\d+)*"
CITATION = re.compile(
    rf"\b(decision|promise)(?:\s+(?P<one>\d+)|s\s+(?P<many>{NUMBERS}))", re.IGNORECASE
)
LINE_BREAK = re.compile(r"[ \t]*\n[ \t]*(?:#+|//|\*|>)?[ \t]*")
"""A line break with the comment mark of the next line: a citation may be split there."""

LAST_CHAPTER_AND_ANNEX = {
    2: (8, "Z"),
    3: (10, "O"),
    4: (7, "KK"),
    5: (10, "L"),
    6: (9, "B"),
    7: (10, "F"),
    8: (10, "I"),
    10: (9, "F"),
    15: (8, "I"),
}
"""By part of the DICOM standard. Only the parts that are cited; 9 and 13 are retired."""

PART = re.compile(r"\bPS ?3(?:\.(?P<part>\d+))?(?P<after>[^\n]{0,60})")
SECTION = re.compile(
    r"\s+(?:(?:tables?|annex(?:es)?|chapters?|sections?)\s+)?(?P<id>[A-Z]{0,2}[0-9.-]+\S*|[A-Z]{1,2})(?![a-z])"
)
WELL_FORMED = re.compile(r"(?:(?P<chapter>\d{1,2})|(?P<annex>[A-Z]{1,2}))(?:\.\d+)*(?:-\d+[a-z]?)?")

LINK = re.compile(r"\[[^\]]*\]\((?P<page>[^)#\s]*)(?:#(?P<anchor>[^)\s]+))?\)")
NAMED_FILE = re.compile(r"`(?P<path>[a-z_]+(?:/[a-z_0-9]+)*\.(?:pyx|pxd|py))(?:::\w+)?`")
SECTION_FLAGS = re.MULTILINE | re.DOTALL | re.IGNORECASE
NAMED_IDENTIFIER = re.compile(r"`(_*[A-Za-z]*(?:[a-z][A-Z]|[A-Za-z]_)\w*)`")
"""A class, function or constant: a name with two words in it."""
NAMED_PAGE = re.compile(r"\bdocs/[a-z_-]+\.md\b")


def cited_files() -> list[Path]:
    """Return every text file of the repository in which something may be cited."""
    found = [ROOT / name for name in FILES]
    for folder in FOLDERS:
        found += (
            path
            for path in (ROOT / folder).rglob("*")
            if path.is_file() and path.suffix in SUFFIXES and "corpus" not in path.parts
        )
    return sorted(path for path in found if path.exists() and "__pycache__" not in path.parts)


def joined(text: str) -> str:
    """Return `text` on one line, without the comment marks at the beginnings of its lines."""
    return LINE_BREAK.sub(" ", text)


def cited_numbers(text: str, kind: str) -> list[int]:
    """Return the numbers of the decisions or promises that `text` cites, ranges written out."""
    found: list[int] = []
    for match in CITATION.finditer(joined(text)):
        if match[1].lower() == kind:
            found += numbers_of(match["one"] or match["many"])
    return found


def numbers_of(listing: str) -> Iterator[int]:
    """Yield the numbers of a listing such as `9, 11 to 13 and 15`."""
    previous: int | None = None
    for separator, digits in re.findall(r"(\D*)(\d+)", listing):
        number = int(digits)
        if previous is not None and re.search(r"to|–|-", separator):
            yield from range(previous + 1, number)
        yield number
        previous = number


def wrong_sections(text: str) -> list[str]:
    """Return each citation of the DICOM standard that cannot be right."""
    wrong = []
    for match in PART.finditer(joined(text)):
        if match["part"] is None:
            wrong.append(match[0])
            continue
        part = int(match["part"])
        if part not in LAST_CHAPTER_AND_ANNEX:
            wrong.append(match[0])
            continue
        section = SECTION.match(match["after"])
        if section is not None and not is_section(part, section["id"].rstrip(".,;:)'\"|`*")):
            wrong.append(match[0])
    return wrong


def is_section(part: int, name: str) -> bool:
    """Return whether a part of the standard has the chapter or annex of a section or table."""
    match = WELL_FORMED.fullmatch(name)
    if match is None:
        return False
    last_chapter, last_annex = LAST_CHAPTER_AND_ANNEX[part]
    if match["chapter"] is not None:
        return 1 <= int(match["chapter"]) <= last_chapter
    annex = match["annex"]
    return (len(annex), annex) <= (len(last_annex), last_annex)


def decisions_of(text: str) -> dict[int, str]:
    """Return the text of each entry of docs/decisions.md by its number."""
    parts = re.split(r"^### (\d+)\. ", text, flags=re.MULTILINE)
    entries = [re.split(r"^## ", entry, flags=re.MULTILINE)[0] for entry in parts[2::2]]
    return dict(zip(map(int, parts[1::2]), entries, strict=True))


def promises_of(text: str) -> dict[int, str]:
    """Return the titles of the promises that a page numbers, without their full stops."""
    section = re.search(r"^## [^\n]*promises\n(.*?)(?=^## |\Z)", text, SECTION_FLAGS)
    pattern = r"^(?:### (\d)\. (.+)|(\d)\. \*\*(.+?)\*\*)"
    found = re.findall(pattern, section[1], flags=re.MULTILINE) if section else []
    return {int(a or b): (title or bold).strip(".") for a, title, b, bold in found}


def anchors_of(text: str) -> set[str]:
    """Return the anchors of a page's headings as GitHub makes them."""
    without_code = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", without_code, flags=re.MULTILINE)
    }


def broken_links(page: Path) -> list[str]:
    """Return the links of a page whose page or anchor does not exist."""
    broken = []
    for match in LINK.finditer(page.read_text()):
        target = page.parent / match["page"] if match["page"] else page
        if "://" in match["page"]:
            continue
        anchor = match["anchor"] if target.suffix == ".md" else None
        if not target.exists() or (anchor and anchor not in anchors_of(target.read_text())):
            broken.append(match[0])
    return broken


def missing_files(text: str) -> list[str]:
    """Return each source or test file that `text` names and that does not exist."""
    places = (ROOT, ROOT / "src" / "oxidicom", ROOT / "tests")
    return [
        match["path"]
        for match in NAMED_FILE.finditer(text)
        if not any((place / match["path"]).exists() for place in places)
    ]


def missing_names(text: str, source: str) -> list[str]:
    """Return each identifier in backticks that is no word of `source`."""
    words = set(re.findall(r"\w+", source))
    return sorted(set(NAMED_IDENTIFIER.findall(text)) - words)


# ---- the repository ------------------------------------------------------------------------


def test_every_cited_decision_has_an_entry() -> None:
    known = decisions_of(DECISIONS.read_text())
    wrong = {
        str(path.relative_to(ROOT)): sorted(missing)
        for path in cited_files()
        if (missing := set(cited_numbers(path.read_text(), "decision")) - known.keys())
    }
    assert wrong == {}


def test_every_cited_promise_exists() -> None:
    known = promises_of(ARCHITECTURE.read_text())
    wrong = {
        str(path.relative_to(ROOT)): sorted(missing)
        for path in cited_files()
        if (missing := set(cited_numbers(path.read_text(), "promise")) - known.keys())
    }
    assert wrong == {}


def test_every_cited_section_of_the_standard_is_plausible() -> None:
    wrong = {
        str(path.relative_to(ROOT)): faults
        for path in cited_files()
        if path != Path(__file__) and (faults := wrong_sections(path.read_text()))
    }
    assert wrong == {}


def test_citations_are_really_found() -> None:
    texts = [path.read_text() for path in cited_files() if path.parent != DECISIONS.parent]
    cited = [number for text in texts for number in cited_numbers(text, "decision")]
    assert len(cited) > 100
    assert {2, 10, 26, 38, 43} <= set(cited)
    assert {4, 5, 6, 7} <= {number for text in texts for number in cited_numbers(text, "promise")}


def test_decisions_are_numbered_without_gaps_and_complete() -> None:
    decisions = decisions_of(DECISIONS.read_text())
    assert list(decisions) == list(range(1, len(decisions) + 1))
    for number, entry in decisions.items():
        for mark in ("\nWhy: ", "\nKept in: ", "Tested by:"):
            assert mark in entry or mark.replace(" ", "\n") in entry, (number, mark)


def test_every_page_numbers_the_promises_alike() -> None:
    promises = promises_of(ARCHITECTURE.read_text())
    assert list(promises) == list(range(1, 10))
    assert promises_of(README.read_text()) == promises
    assert promises_of(GUARANTEES.read_text()) == promises


@pytest.mark.parametrize(
    "page",
    sorted([README, ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]),
    ids=lambda page: page.name,
)
def test_links_between_pages_lead_to_a_heading(page: Path) -> None:
    assert broken_links(page) == []


@pytest.mark.parametrize(
    "page", ["docs/architecture.md", "docs/decisions.md", "CONTRIBUTING.md", "docs/guarantees.md"]
)
def test_files_that_a_page_names_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    assert NAMED_FILE.search(text)
    assert missing_files(text) == []


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_identifiers_that_a_page_names_exist(page: str) -> None:
    source = "\n".join(
        path.read_text()
        for path in cited_files()
        if path.suffix in {".py", ".pyx", ".pxd"} and path != Path(__file__)
    )
    text = (ROOT / page).read_text()
    assert NAMED_IDENTIFIER.search(text)
    assert missing_names(text, source) == []


def test_pages_that_the_source_names_exist() -> None:
    wrong = {
        str(path.relative_to(ROOT)): missing
        for path in cited_files()
        if path != Path(__file__)
        and (
            missing := [
                name for name in NAMED_PAGE.findall(path.read_text()) if not (ROOT / name).exists()
            ]
        )
    }
    assert wrong == {}


# ---- planted faults ------------------------------------------------------------------------
# Numbers are put in by `format`, so that these lines cite nothing themselves.


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("(decision {})", [26]),
        ("Decision {}.", [26]),
        ("decisions {}, 11 to 13, 15", [26, 11, 12, 13, 15]),
        ("decisions {}–28", [26, 27, 28]),
        ("decisions {}, 27, and 29", [26, 27, 29]),
        ("decisions {} and 29 hold", [26, 29]),
        ("(decisions\n    {} to 28)", [26, 27, 28]),
        ("# (decision\n# {})", [26]),
        ("decision {}, 2 s later", [26]),
        ("decision {}: 5 of 7", [26]),
        ("the decision was", []),
        ("precision {}", []),
    ],
)
def test_citations_of_decisions_are_read(text: str, numbers: list[int]) -> None:
    assert cited_numbers(text.format(26), "decision") == numbers
    assert cited_numbers(text.format(26), "promise") == []


def test_a_promise_and_a_decision_in_one_sentence_are_told_apart() -> None:
    text = f"(promises {4} and 7; decisions {35}, 37)"
    assert cited_numbers(text, "promise") == [4, 7]
    assert cited_numbers(text, "decision") == [35, 37]


def test_a_decision_without_an_entry_is_found() -> None:
    known = decisions_of("## A\n\n### 1. One\n\nText.\n\n## B\n\n### 2. Two\n\nMore.\n")
    assert known == {1: "One\n\nText.\n\n", 2: "Two\n\nMore.\n"}
    assert set(cited_numbers(f"decisions {1} to 3", "decision")) - known.keys() == {3}


@pytest.mark.parametrize(
    "text",
    [
        "PS3.8 9.3.5",
        "PS3.8 9.3.5.",
        "(PS3.8 9.3.1).",
        "PS3.8 table 9-26;",
        "PS3.7 table E.1-1, and",
        "PS3.4 B.2.3",
        "PS3.8 annex E",
        "PS3.7 annex C, PS3.4 B.2.3",
        "PS3.5 annex A",
        "PS3.7 chapter 9; decisions",
        "PS3.2 gives to such statements",
        "PS3.5's grammar",
        "PS3.15 B.12",
        "(PS3.5) A thing",
    ],
)
def test_sections_that_may_be_right(text: str) -> None:
    assert wrong_sections(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "PS3.9 9.3.5",
        "PS3.88 9.3.5",
        "PS3 9.3.5",
        "PS3.8 9..5",
        "PS3.8 9.3.x",
        "PS3.8 12.1",
        "PS3.8 0.1",
        "PS3.8 table Z.1-1",
        "PS3.8\n# table 99-1",
        "PS3.7 G.2.3",
        "PS3.5 annex Q",
    ],
)
def test_sections_that_cannot_be_right_are_found(text: str) -> None:
    assert wrong_sections(text)


def test_links_to_missing_pages_and_headings_are_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# A title: with `code`, and more\n```\n# no heading\n```\n")
    page = tmp_path / "page.md"
    page.write_text(
        "# Here\n[a](other.md) [b](other.md#a-title-with-code-and-more) [c](#here)\n"
        "[d](missing.md) [e](other.md#missing) [f](#there) [g](other.md#no-heading)\n"
        "[h](https://example.org/x#y)\n"
    )
    assert broken_links(page) == [
        "[d](missing.md)",
        "[e](other.md#missing)",
        "[f](#there)",
        "[g](other.md#no-heading)",
    ]


def test_missing_files_are_found() -> None:
    assert missing_files("`store/sink.py` `unit/test_tags.py` `_pdu.pyx` `setup.py`") == []
    assert missing_files("`store/sunk.py` `unit/test_togs.py::test_x`") == [
        "store/sunk.py",
        "unit/test_togs.py",
    ]


def test_missing_identifiers_are_found() -> None:
    source = "class WritePolicy:\nWRITE_LIMIT_S = 1\ndef _make_plane(): ...\n"
    text = "`WritePolicy`, `WRITE_LIMIT_S`, `_make_plane`, `word`, `a.b`, `x-y` and `{}`"
    assert missing_names(text.format("WritePolicy"), source) == []
    assert missing_names(text.format("WritePolice"), source) == ["WritePolice"]
    assert missing_names(text.format("WRITE_LIMIT"), source) == ["WRITE_LIMIT"]


def test_promises_of_other_titles_are_found() -> None:
    headed = "## The promises\n\n### 1. One\n\n### 2. Two\n\n## Others\n\n### 3. Three\n"
    assert promises_of(headed) == {1: "One", 2: "Two"}
    listed = "1. **No**\n\n## What it promises\n\n1. **One.** More.\n2. **Two**, more.\n"
    assert promises_of(listed) == {1: "One", 2: "Two"}
