"""Subjects, payloads and the rate limit of LONK (decisions 26, 36)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxidicom.notify import lonk_messages
from oxidicom.notify.lonk_messages import ProgressLimiter, Urgency

VECTORS = json.loads((Path(__file__).parents[1] / "support" / "vectors.json").read_text())


@pytest.mark.parametrize(
    ("aet", "uid", "expected"),
    [
        ("ORTHANC", "1.2.3", "oxidicom.ORTHANC.1_2_3"),
        ("MY PACS", "1.2", "oxidicom.MY_PACS.1_2"),
        ("a*b>c.d", "1", "oxidicom.a_b_c_d.1"),
        ("a\tb\rc\nd", "1", "oxidicom.a_b_c_d.1"),
        ("a\x00b\x7fc\x85d", "1", "oxidicom.ab_c_d.1"),
        ("RÖNTGEN", "1", "oxidicom.RÖNTGEN.1"),
        ("A", None, "oxidicom.A.UNKNOWN"),
        ("A", "", "oxidicom.A.UNKNOWN"),
        ("\x00", "1", "oxidicom.UNKNOWN.1"),
        ("A", "1 ", "oxidicom.A.1_"),
    ],
)
def test_a_subject_has_root_title_and_uid(aet: str, uid: str | None, expected: str) -> None:
    assert lonk_messages.subject("oxidicom", aet, uid) == expected


def test_the_root_may_have_several_tokens() -> None:
    assert lonk_messages.subject("hospital.oxidicom", "A", "1") == "hospital.oxidicom.A.1"


@given(st.text(), st.none() | st.text())
def test_every_subject_is_three_tokens_that_nats_takes(aet: str, uid: str | None) -> None:
    made = lonk_messages.subject("oxidicom", aet, uid)
    encoded = made.encode()
    assert len(encoded) <= 1024
    assert not set(encoded) & set(b" \t\r\n\x00*>")
    assert all(made.split(".")[:2])


def test_a_long_subject_is_cut_between_characters() -> None:
    made = lonk_messages.subject("r", "A", "é" * 2000)
    assert made == "r.A." + "é" * 510
    assert len(made.encode()) == 1024


def test_each_kind_of_payload_has_its_bytes() -> None:
    assert lonk_messages.done() == b"\x00"
    assert lonk_messages.ndicom(192) == b"\x01\xc0\x00\x00\x00"
    assert lonk_messages.ndicom(2**32 - 1) == lonk_messages.ndicom(2**40) == b"\x01\xff\xff\xff\xff"
    assert lonk_messages.error("é") == b"\x02\xc3\xa9"
    assert len(lonk_messages.error("é" * 100_000)) == 1 + 8 * 1024
    assert lonk_messages.error("\ud800") == b"\x02?"


class Wire:
    """The messages that pass the limiter, as the publisher would send them."""

    def __init__(self, interval: float) -> None:
        self.limiter = ProgressLimiter(interval)
        self.now = 100.0
        self.sent: list[str] = []

    def send(self, urgency: Urgency, payload: bytes, subject: str = "s") -> bool:
        if not self.limiter.admits(subject, urgency, self.now):
            return False
        self.limiter.sent(subject, urgency, self.now)
        self.sent.append(payload.hex())
        return True

    def count(self, number: int, subject: str = "s") -> bool:
        return self.send(
            Urgency.FIRST if number == 1 else Urgency.COUNT, lonk_messages.ndicom(number), subject
        )

    def finish(self, received: int, subject: str = "s") -> None:
        self.send(Urgency.FINAL, lonk_messages.ndicom(received), subject)
        self.send(Urgency.DONE, lonk_messages.done(), subject)


def play(case: dict[str, Any]) -> list[str]:
    """The association that a case's name describes, within one interval."""
    wire = Wire(0.0 if case["name"].startswith("interval 0s") else 0.5)
    received = case["celery_ndicom"][0]
    for number in range(1, received + 1):
        wire.count(number)
        if "lacks StudyDate" in case["name"] and number == 1:
            wire.send(
                Urgency.ERROR,
                lonk_messages.error("DICOM file does not have the required tag: StudyDate"),
            )
    wire.finish(received)
    return wire.sent


@pytest.mark.parametrize("case", VECTORS["sequences"], ids=lambda case: case["name"])
def test_messages_are_sent_in_the_order_of_the_reference(case: dict[str, Any]) -> None:
    sent = play(case)
    if "lonk" in case:
        assert sent == case["lonk"]
    else:
        final = case["lonk_final"]
        assert sent[-len(final) :] == final
        assert sorted(sent[: -len(final)]) == sorted(case["lonk_any_order_before_final"])


def test_a_count_within_the_interval_is_dropped_not_delayed() -> None:
    wire = Wire(0.5)
    assert wire.count(1)
    assert wire.count(2), "the first that may be dropped always passes"
    wire.now += 0.499
    assert not wire.count(3)
    wire.now += 0.001
    assert wire.count(4)
    assert not wire.count(5)


def test_messages_of_other_kinds_do_not_delay_a_count() -> None:
    wire = Wire(0.5)
    wire.count(1)
    wire.count(2)
    wire.now += 0.4
    assert wire.send(Urgency.ERROR, lonk_messages.error("x"))
    wire.now += 0.1
    assert wire.count(3)


def test_done_resets_its_own_subject_only() -> None:
    wire = Wire(0.5)
    for subject in "ab":
        wire.count(1, subject)
        assert wire.count(2, subject)
        assert not wire.count(3, subject)
    wire.finish(3, "a")
    assert wire.count(2, "a")
    assert not wire.count(4, "b")


@pytest.mark.parametrize("received", [0, 1, 2, 5])
def test_no_state_remains_after_done(received: int) -> None:
    wire = Wire(0.5)
    for number in range(1, received + 1):
        wire.count(number)
    wire.send(Urgency.ERROR, lonk_messages.error("x"))
    wire.finish(received)
    assert len(wire.limiter) == 0


def test_state_is_bounded_even_if_done_never_comes() -> None:
    limiter = ProgressLimiter(0.5, max_subjects=3)
    for number in range(10):
        limiter.sent(f"s{number}", Urgency.COUNT, number)
    assert len(limiter) == 3
    assert not limiter.admits("s9", Urgency.COUNT, 9.1)
    assert limiter.admits("s0", Urgency.COUNT, 9.1)
