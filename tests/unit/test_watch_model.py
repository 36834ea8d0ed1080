"""The rows of `oxidicom watch`, and the decoding of the messages that they show."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from oxidicom.cli.watch_model import WatchModel
from oxidicom.cli.watch_screen import WatchScreen
from oxidicom.notify import lonk_messages
from oxidicom.notify.lonk_messages import LonkKind, LonkMessage


def count(uid: str, ndicom: int) -> LonkMessage:
    return LonkMessage("CT1", uid, LonkKind.COUNT, ndicom=ndicom)


def done(uid: str) -> LonkMessage:
    return LonkMessage("CT1", uid, LonkKind.DONE)


@pytest.mark.parametrize(
    ("payload", "heard"),
    [
        (lonk_messages.ndicom(258), LonkMessage("A_B", "1.2.3", LonkKind.COUNT, ndicom=258)),
        (lonk_messages.done(), LonkMessage("A_B", "1.2.3", LonkKind.DONE)),
        (
            lonk_messages.error("no StudyDate"),
            LonkMessage("A_B", "1.2.3", LonkKind.ERROR, error="no StudyDate"),
        ),
        (b"\2\xff", LonkMessage("A_B", "1.2.3", LonkKind.ERROR, error="\ufffd")),
        (b"\1\0", LonkMessage("A_B", "1.2.3", LonkKind.UNKNOWN)),
        (b"", LonkMessage("A_B", "1.2.3", LonkKind.UNKNOWN)),
    ],
)
def test_messages_are_read_as_they_were_written(payload: bytes, heard: LonkMessage) -> None:
    assert (
        lonk_messages.decode("a.root", lonk_messages.subject("a.root", "A B", "1.2.3"), payload)
        == heard
    )


def test_a_subject_without_series() -> None:
    heard = lonk_messages.decode(
        "oxidicom", lonk_messages.subject("oxidicom", "CT", None), lonk_messages.done()
    )
    assert heard == LonkMessage("CT", "UNKNOWN", LonkKind.DONE)


@pytest.mark.parametrize(
    "subject", ["other.CT.1", "oxidicom.CT", "oxidicom.CT.1.2", "oxidicomCT.1"]
)
def test_other_subjects_are_not_read(subject: str) -> None:
    assert lonk_messages.decode("oxidicom", subject, lonk_messages.done()) is None


def test_a_series_counts_up_and_is_done() -> None:
    board = WatchModel(10)
    for second in range(11):
        board.add(count("1", 100 * second), float(second))
    (row,) = board.rows(10.0)
    assert row.count == 1000
    assert row.rate(10.0) == pytest.approx(100)
    board.add(done("1"), 11.0)
    assert (row.done, row.rate(11.0), board.done) == (True, 0.0, 1)
    assert board.rows(60.0) == [row]
    assert board.rows(90.0) == []


def test_a_series_that_is_received_again_starts_from_zero() -> None:
    board = WatchModel(10)
    for heard in (count("1", 9), LonkMessage("CT1", "1", LonkKind.ERROR, error="bad"), done("1")):
        board.add(heard, 0.0)
    board.add(count("1", 1), 1.0)
    (row,) = board.rows(1.0)
    assert (row.count, row.done, row.error) == (1, False, None)


def test_rows_are_bounded_and_series_that_are_done_are_dropped_first() -> None:
    board = WatchModel(2)
    board.add(count("old", 1), 0.0)
    board.add(done("done"), 1.0)
    board.add(count("new", 1), 2.0)
    assert [row.uid for row in board.rows(2.0)] == ["old", "new"]
    board.add(count("newer", 1), 3.0)
    assert [row.uid for row in board.rows(3.0)] == ["new", "newer"]


def test_the_screen_shows_no_control_characters() -> None:
    text = io.StringIO()
    console = Console(file=text, width=120, height=20, force_terminal=False)
    screen = WatchScreen(10, console)
    screen.set_state("listening to oxidicom.*.*")
    screen.add(count("1.2." + "3" * 40, 42))
    screen.add(LonkMessage("MR\x1b[2J", "1.2", LonkKind.ERROR, error="no\x07 date"))
    console.print(screen.table(0.0))
    shown = text.getvalue()
    assert "CT1" in shown
    assert f"…{'3' * 24}" in shown
    assert "42" in shown
    assert "error: no\\x07 date" in shown
    assert "MR\\x1b" in shown
    assert "listening to oxidicom.*.*; 0 done, 1 errors" in shown
    assert "\x1b" not in shown
