"""Decisions 11 and 12: which syntaxes are accepted, and how their data sets are encoded."""

from __future__ import annotations

import json
from pathlib import Path
from subprocess import run
from sys import executable
from typing import Any

import pytest
from pydicom.uid import UID_dictionary
from pynetdicom import sop_class
from pynetdicom.presentation import (
    AllStoragePresentationContexts,
    StoragePresentationContexts,
)

from oxidicom.constants import Encoding
from oxidicom.uids import abstract_syntaxes, transfer_syntax_encoding, transfer_syntaxes

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "support" / "vectors.json").read_text()
)
XML_AND_MIME = ("1.2.840.10008.1.2.6.1", "1.2.840.10008.1.2.6.2")


def test_the_abstract_syntaxes_of_the_reference_are_accepted() -> None:
    assert len(VECTORS["abstract_syntaxes"]) == 184
    assert abstract_syntaxes() >= set(VECTORS["abstract_syntaxes"])


def test_every_storage_sop_class_of_pydicom_is_accepted() -> None:
    storage = {u for u, e in UID_dictionary.items() if "Storage" in e[0] and e[1] == "SOP Class"}
    assert len(storage) > 200
    assert abstract_syntaxes() >= storage


def test_the_storage_contexts_of_pynetdicom_are_accepted() -> None:
    contexts = (*AllStoragePresentationContexts, *StoragePresentationContexts)
    assert abstract_syntaxes() >= {str(context.abstract_syntax) for context in contexts}
    assert abstract_syntaxes() >= {str(uid) for uid in sop_class._STORAGE_CLASSES.values()}


@pytest.mark.parametrize(
    "uid",
    [
        "",
        "1.2.840.10008.4.2",  # Storage Service Class: in the dictionary, but no SOP class
        "1.2.840.10008.1.20.1.1",  # a well-known instance
        "1.2.840.10008.5.1.4.1.2.2.1",  # Study Root FIND
    ],
)
def test_nothing_else_is_an_accepted_abstract_syntax(uid: str) -> None:
    assert uid not in abstract_syntaxes()


def test_the_transfer_syntaxes_of_the_reference_are_accepted() -> None:
    assert len(VECTORS["transfer_syntaxes"]) == 46
    assert transfer_syntaxes().keys() >= set(VECTORS["transfer_syntaxes"])


def test_every_transfer_syntax_of_pydicom_but_two_is_accepted() -> None:
    known = {uid for uid, entry in UID_dictionary.items() if entry[1] == "Transfer Syntax"}
    assert known - transfer_syntaxes().keys() == set(XML_AND_MIME)


@pytest.mark.parametrize(
    ("uid", "encoding"),
    [
        ("1.2.840.10008.1.2", Encoding.IMPLICIT_LE),
        ("1.2.840.10008.1.20", Encoding.IMPLICIT_LE),
        ("1.2.840.10008.1.2.1", Encoding.EXPLICIT_LE),
        ("1.2.840.10008.1.2.2", Encoding.EXPLICIT_BE),
        ("1.2.840.10008.1.2.1.99", Encoding.DEFLATED),
        ("1.2.840.10008.1.2.4.95", Encoding.DEFLATED),
        ("1.2.840.10008.1.2.4.205", Encoding.DEFLATED),
        ("1.2.840.10008.1.2.4.52", Encoding.EXPLICIT_LE),  # retired
        ("1.2.840.10008.1.2.4.70", Encoding.EXPLICIT_LE),
        ("1.2.840.10008.1.2.4.112", Encoding.EXPLICIT_LE),  # unknown to pydicom
        ("1.2.840.10008.1.2.8.1", Encoding.EXPLICIT_LE),  # frames deflated, data set not
        ("1.2.840.113619.5.2", None),  # private
        ("", None),
        *((uid, None) for uid in XML_AND_MIME),
    ],
)
def test_the_encoding_of_a_transfer_syntax(uid: str, encoding: Encoding | None) -> None:
    assert transfer_syntax_encoding(uid) == encoding


def test_all_others_are_explicit_little_endian() -> None:
    others = {u: e for u, e in transfer_syntaxes().items() if e is not Encoding.EXPLICIT_LE}
    assert sorted(others.values()) == [0, 0, 2, 3, 3, 3]


@pytest.mark.parametrize("uid", ["1.2.3", "1.2.840.113619.5.2", "1" * 64])
def test_promiscuous_reads_any_other_uid_as_explicit_little_endian(uid: str) -> None:
    assert transfer_syntax_encoding(uid, promiscuous=True) is Encoding.EXPLICIT_LE


@pytest.mark.parametrize("uid", ["", "1" * 65, "no uid", "1.2\n", *XML_AND_MIME])
def test_promiscuous_still_refuses_xml_mime_and_invalid_uids(uid: str) -> None:
    assert transfer_syntax_encoding(uid, promiscuous=True) is None


def test_promiscuous_keeps_the_encoding_of_known_uids() -> None:
    for uid, encoding in transfer_syntaxes().items():
        assert transfer_syntax_encoding(uid, promiscuous=True) is encoding


def test_pynetdicom_is_not_imported() -> None:
    program = (
        "import sys, oxidicom.uids as u; u.abstract_syntaxes(); u.transfer_syntaxes();"
        "sys.exit('pynetdicom' in sys.modules)"
    )
    assert run([executable, "-c", program], check=False).returncode == 0
