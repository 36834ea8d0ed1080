from __future__ import annotations

import re
import time

import pytest

from oxidicom import ulid
from oxidicom.ulid import new_ulid


def test_a_ulid_has_26_characters_of_crockfords_alphabet() -> None:
    made = new_ulid()
    assert len(made) == ulid.ULID_LENGTH
    assert re.fullmatch("[0-7][0-9A-HJKMNP-TV-Z]{25}", made)


def test_the_time_is_encoded_as_in_the_example_of_the_specification() -> None:
    """01ARYZ6S41… encodes 1469918176385 ms (ulid/spec, README)."""
    assert new_ulid(1_469_918_176_385 * 1_000_000).startswith("01ARYZ6S41")


def test_time_and_random_bits_fill_all_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.urandom", lambda size: b"\xff" * size)
    assert new_ulid(((1 << 48) - 1) * 1_000_000) == "7" + "Z" * 25
    assert new_ulid(0) == "0" * 10 + "Z" * 16
    monkeypatch.setattr("os.urandom", lambda size: b"\0" * (size - 1) + b"\x21")
    assert new_ulid(1_000_000) == "0" * 9 + "1" + "0" * 14 + "11"


def test_ulids_sort_by_time() -> None:
    made = [new_ulid(second * 1_000_000_000) for second in range(1000)]
    assert made == sorted(made)


def test_the_default_time_is_now() -> None:
    before = new_ulid(time.time_ns())[:10]
    made = new_ulid()[:10]
    assert before <= made <= new_ulid(time.time_ns())[:10]


def test_ulids_of_one_time_differ() -> None:
    assert len({new_ulid(0) for _ in range(10_000)}) == 10_000


@pytest.mark.parametrize("wall_ns", [-1, (1 << 48) * 1_000_000])
def test_times_beyond_48_bits_are_refused(wall_ns: int) -> None:
    with pytest.raises(ValueError, match="48 bits"):
        new_ulid(wall_ns)


def test_a_ulid_as_uuid() -> None:
    assert ulid.uuid_of("01ARZ3NDEKTSV4RRFFQ69G5FAV") == "01563e3a-b5d3-d676-4c61-efb99302bd5b"
    assert ulid.uuid_of("7" + "Z" * 25) == "ffffffff-ffff-ffff-ffff-ffffffffffff"


@pytest.mark.parametrize("text", ["", "A", "01ARZ3NDEKTSV4RRFFQ69G5FAU", "8" + "0" * 25, "0" * 27])
def test_other_text_has_no_uuid(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        ulid.uuid_of(text)
