"""The conformance statement agrees with the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import oxidicom
from oxidicom.constants import AbortReason, ContextResult, DimseStatus
from oxidicom.settings.model import variables
from oxidicom.store.identity import REQUIRED
from tests.support.conformance import DOCUMENT, block, pydicom_version, renewed, tables, uids_of

SOURCE = Path(oxidicom.__file__).parent
RENEW = "run `python -m tests.support.conformance`, which renews docs/conformance.md"

DEPENDS_ON_PYDICOM = {"services", "pydicom", "SOP classes", "transfer syntaxes", "character sets"}


@pytest.fixture(scope="module")
def document() -> str:
    return DOCUMENT.read_text()


@pytest.fixture(scope="module")
def same_pydicom(document: str) -> bool:
    """Return whether the lists were made with the dictionary that is installed here."""
    return block("pydicom", document) == f"As of pydicom {pydicom_version()}."


@pytest.mark.parametrize("name", list(tables()))
def test_generated_tables_match_the_code(document: str, same_pydicom: bool, name: str) -> None:
    if same_pydicom or name not in DEPENDS_ON_PYDICOM:
        assert block(name, document) == tables()[name], RENEW
    else:
        # A newer dictionary has more entries, and all of the older one's.
        assert uids_of(block(name, document)) <= uids_of(tables()[name]), RENEW


def test_renewing_a_renewed_document_changes_nothing(document: str) -> None:
    once = renewed(document)
    assert renewed(once) == once
    assert {name: block(name, once) for name in tables()} == tables()


def test_every_store_status_is_there_and_no_other(document: str) -> None:
    assert {int(code, 16) for code in first_column(document, "| Status | Meaning | When |")} == {
        int(status) for status in DimseStatus
    }


def test_every_rejection_is_there_and_no_other(document: str) -> None:
    stated = first_column(document, "| Rejection (result/source/reason) |")
    assert set(stated) == set(rejections())


def test_every_abort_reason_is_there_and_no_other(document: str) -> None:
    stated = first_column(document, "| Reason | Meaning | When |")
    assert {int(reason) for reason in stated} == abort_reasons()


def test_results_of_contexts(document: str) -> None:
    """Two results of PS3.8 table 9-18 are given for reasons that the document must name."""
    results = {f"ContextResult.{result.name}" for result in ContextResult}
    negotiation = (SOURCE / "wire" / "negotiation.py").read_text()
    given = {result for result in results if re.search(rf"\b{re.escape(result)}\b", negotiation)}
    assert given == {
        "ContextResult.ACCEPTANCE",
        "ContextResult.ABSTRACT_SYNTAX_NOT_SUPPORTED",
        "ContextResult.TRANSFER_SYNTAXES_NOT_SUPPORTED",
    }
    prose = " ".join(document.split())
    for result in ("3 (abstract syntax not supported)", "4 (transfer syntaxes not supported)"):
        assert f"the result is {result}" in prose


def test_required_tags_match_the_code(document: str) -> None:
    assert set(REQUIRED) == {
        *("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"),
        *("SOPClassUID", "PatientID", "StudyDate"),
    }
    prose = " ".join(document.split())
    assert (
        "Study, Series and SOP Instance UID, SOP Class UID, and a Patient ID and a Study" in prose
    )


def test_every_variable_exists(document: str) -> None:
    known = {name for variable in variables().values() for name in variable.names}
    named = set(re.findall(r"`(OXIDICOM_[A-Z_]+)(?:=[^`]*)?`", document))
    assert named
    assert named <= known


def first_column(document: str, head: str) -> list[str]:
    """Return the first column of the table that begins with `head`, without backticks."""
    lines = iter(document[document.index(head) :].splitlines()[2:])
    cells = []
    for line in lines:
        if not line.startswith("|"):
            break
        cells.append(line.split("|")[1].strip().strip("`"))
    return cells


def calls(name: str) -> Iterator[ast.Call]:
    """Yield every call of `name` in the sources."""
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) == name:
                yield node


def rejections() -> Iterator[str]:
    for call in calls("AssociationRejectedError"):
        yield "/".join(str(ast.literal_eval(argument)) for argument in call.args[:3])


def abort_reasons() -> set[int]:
    """Return the abort reasons that the sources name, the framer's included."""
    text = "".join(path.read_text() for path in SOURCE.rglob("*.py") if path.name != "constants.py")
    named = set(re.findall(r"\bAbortReason\.([A-Z_]+)", text))
    named |= set(re.findall(r"violated\(\s*([A-Z_]+)", (SOURCE / "_pdu.pyx").read_text()))
    return {int(AbortReason[name]) for name in named}
