from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxidicom.store.seahash import seahash, short_hash

VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "support/vectors.json").read_text()
)["seahash"]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["ascii"] or "empty")
def test_hashes_of_the_reference(vector: dict[str, Any]) -> None:
    data = vector["ascii"].encode()
    assert seahash(data) == int(vector["u64"])
    assert short_hash(data, 16) == vector["hex"]
    assert short_hash(data, 7) == vector["hex"][:7]


def test_the_short_hash_has_no_leading_zeros() -> None:
    """The reference panics below 16⁶ (decision 27)."""
    assert short_hash(b"1.2.826.0.1.3680043.8.498.99.341", 7) == "a88d034"
    assert len(short_hash(b"1.2.826.0.1.3680043.8.498.99.341", 16)) == 14


@given(st.binary(max_size=80))
def test_the_hash_has_64_bits_and_depends_on_the_length(data: bytes) -> None:
    assert 0 <= seahash(data) < 2**64
    assert seahash(data) != seahash(data + b"\0")
