"""Properties of durations and sizes."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxidicom.settings.parsing import (
    InvalidValueError,
    parse_duration,
    parse_rust_log,
    parse_size,
    show_duration,
    show_size,
)

HUMANTIME = {
    1e-9: "ns nsec nanos",
    1e-6: "us usec µs μs",
    1e-3: "ms msec millis",
    1.0: "s sec second seconds",
    60.0: "m min minute minutes",
    3600.0: "h hr hour hours",
    86400.0: "d day days",
    7 * 86400.0: "w wk week weeks",
    30.44 * 86400: "M month months",
    365.25 * 86400: "y yr year years",
}
"""From the reference's page, independent of the parser's own table."""

UNITS = [(unit, seconds) for seconds, units in HUMANTIME.items() for unit in units.split()]

parts = st.tuples(st.integers(0, 1000), st.sampled_from([each for each in UNITS if each[1] < 1e5]))


@pytest.mark.parametrize(("unit", "seconds"), UNITS)
@pytest.mark.parametrize("template", ["1{}", "1 {}", "1.0 {}"])
def test_every_unit_of_humantime_is_read(unit: str, seconds: float, template: str) -> None:
    assert parse_duration(template.format(unit)) == pytest.approx(seconds, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0s", 0.0), ("5ms", 0.005), ("1m 30s", 90.0), ("1m30s", 90.0), ("1.5 h", 5400.0)],
)
def test_example_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@given(st.lists(parts, min_size=1, max_size=5), st.sampled_from(["", " ", "  "]))
def test_a_duration_is_the_sum_of_its_parts(
    pairs: list[tuple[int, tuple[str, float]]], gap: str
) -> None:
    text = gap.join(f"{count}{gap}{unit}" for count, (unit, _) in pairs)
    total = sum(count * seconds for count, (_, seconds) in pairs)
    assert parse_duration(text) == pytest.approx(total, rel=1e-12)


@given(st.integers(0, 100 * 365 * 86400 * 10**9))
def test_a_shown_duration_can_be_read_again(nanoseconds: int) -> None:
    seconds = nanoseconds / 10**9
    assert parse_duration(show_duration(seconds)) == pytest.approx(seconds, rel=1e-12, abs=1e-9)


@given(st.text(min_size=1))
def test_a_duration_is_finite_and_not_negative_or_is_refused(text: str) -> None:
    try:
        seconds = parse_duration(text)
    except InvalidValueError:
        return
    assert 0 <= seconds <= 100 * 365.25 * 86400


@pytest.mark.parametrize(
    "text",
    [
        "0",
        "500",
        "1.5",
        "-1s",
        "+1s",
        "1",
        "s",
        "1x",
        "1S",
        "1MS",
        "nan",
        "inf",
        "infs",
        "1 2s",
        "1e3s",
        "1s,",
        "1,5s",
        "٣s",
        "1s\n",
        "101y",
        "9" * 400 + "s",
        "0x10s",
        ".5s",
        "5.s",
        "nans",
    ],
)
def test_an_invalid_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidValueError):
        parse_duration(text)


@given(st.integers(0, 2**63 - 1))
def test_a_size_without_a_unit_is_bytes(value: int) -> None:
    assert parse_size(str(value)) == value


@given(st.integers(0, 1 << 22), st.sampled_from(["KiB", "MiB", "GiB", "TiB"]), st.booleans())
def test_sizes_with_a_unit(count: int, unit: str, spaced: bool) -> None:
    power = 1 + "KMGT".index(unit[0])
    expected = count * 1024**power
    for spelling in (unit, unit.lower(), unit.upper()):
        assert parse_size(f"{count}{' ' if spaced else ''}{spelling}") == expected


@given(st.integers(0, 2**63 - 1))
def test_a_shown_size_can_be_read_again(value: int) -> None:
    assert parse_size(show_size(value)) == value


def test_fractions_of_units() -> None:
    assert parse_size("1.5GiB") == 3 << 29
    assert show_size(3 << 29) == "1536MiB"


@given(st.text(min_size=1))
def test_a_size_is_a_number_of_bytes_or_is_refused(text: str) -> None:
    try:
        value = parse_size(text)
    except InvalidValueError:
        return
    assert re.match(r"[0-9]", text)
    assert 0 <= value < 2**63


@pytest.mark.parametrize(
    "text",
    [
        "-1",
        "+1",
        "1.5",
        "0.0001KiB",
        "1KB",
        "1K",
        "1MB",
        "KiB",
        "1e9",
        "0x10",
        "1_000",
        "٣",
        "nan",
        "inf",
        "9223372036854775808",
        "8388608TiB",
        "9" * 400,
        "1 KiB KiB",
        "1\n",
    ],
)
def test_an_invalid_size_is_refused(text: str) -> None:
    with pytest.raises(InvalidValueError):
        parse_size(text)


@given(st.text(min_size=1))
def test_any_text_is_read_as_directives_or_refused(text: str) -> None:
    try:
        level = parse_rust_log(text)
    except InvalidValueError:
        assert "oxidicom" in text
    else:
        assert level in {"debug", "info", "warning", "error", "critical"}
