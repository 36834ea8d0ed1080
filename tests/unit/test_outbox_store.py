"""The outbox on disk (decisions 21, 32, 35)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec
import pytest

from oxidicom.notify.cube_fields import fit
from oxidicom.notify.outbox_store import Outbox, new_entry
from tests.support.registrations import numbered, registration


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path / "outbox", sync=False)


def files(tmp_path: Path) -> list[str]:
    return sorted(os.listdir(tmp_path / "outbox"))


@pytest.mark.parametrize("sync", [False, True])
def test_an_entry_survives_the_process(tmp_path: Path, sync: bool) -> None:
    entry = new_entry(registration())
    Outbox(tmp_path / "a" / "b", sync=sync).put(entry)
    again = Outbox(tmp_path / "a" / "b", sync=sync)
    assert list(again.pending()) == [entry]
    assert again.depth() == 1
    assert again.remove(entry)
    assert list(again.pending()) == []
    assert os.listdir(tmp_path / "a" / "b") == []


def test_the_trace_context_is_kept_and_entries_without_one_are_read(
    outbox: Outbox, tmp_path: Path
) -> None:
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    entry = new_entry(msgspec.structs.replace(registration(), traceparent=traceparent))
    outbox.put(entry)
    assert [each.registration.traceparent for each in outbox.pending()] == [traceparent]
    [path] = (tmp_path / "outbox").glob("*.json")
    written = json.loads(path.read_bytes())
    del written["registration"]["traceparent"]
    path.write_text(json.dumps(written))
    assert [each.registration.traceparent for each in outbox.pending()] == [None]


def test_an_outbox_without_a_folder_is_empty(outbox: Outbox) -> None:
    assert outbox.names() == []
    assert outbox.depth() == 0
    assert outbox.read("absent") is None


def test_entries_are_counted_by_state(outbox: Outbox, tmp_path: Path) -> None:
    assert outbox.counts() == (0, 0, None)
    for number in (1, 2, 3):
        outbox.put(new_entry(numbered(number)))
    (oldest, *_) = outbox.names()
    os.utime(tmp_path / "outbox" / f"{oldest}.json", (5, 5))
    (tmp_path / "outbox" / ".half-written.json").touch()
    refused = outbox.read(outbox.names()[1])
    assert refused is not None
    outbox.refuse(refused, "400")
    assert outbox.counts() == (2, 1, 5.0)


def test_a_newer_registration_replaces_an_older_one(outbox: Outbox) -> None:
    older, newer = new_entry(registration(1)), new_entry(registration(2))
    outbox.put(older)
    outbox.put(newer)
    assert list(outbox.pending()) == [newer]
    assert not outbox.remove(older)
    assert not outbox.refuse(older, "400")
    assert list(outbox.pending()) == [newer]


def test_pending_entries_are_sorted_by_age(outbox: Outbox, tmp_path: Path) -> None:
    entries = [new_entry(numbered(number)) for number in (3, 1, 2)]
    for place, entry in enumerate(entries):
        outbox.put(entry)
        os.utime(tmp_path / "outbox" / f"{entry.name}.json", ns=(0, place))
    assert list(outbox.pending()) == entries


@pytest.mark.parametrize("data", [b"", b"{", b"null", b'{"task_id":"x"}', b"\xff" * 9])
def test_a_corrupt_entry_is_set_aside(outbox: Outbox, tmp_path: Path, data: bytes) -> None:
    good, bad = new_entry(numbered(1)), new_entry(numbered(2))
    outbox.put(good)
    outbox.put(bad)
    (tmp_path / "outbox" / f"{bad.name}.json").write_bytes(data)
    assert list(outbox.pending()) == [good]
    assert outbox.depth() == 1
    assert (tmp_path / "outbox" / f"{bad.name}.corrupt").read_bytes() == data


def test_a_refused_entry_is_kept_but_not_pending(outbox: Outbox, tmp_path: Path) -> None:
    entry = new_entry(numbered(1))
    outbox.put(entry)
    assert outbox.refuse(entry, "400")
    assert outbox.depth() == 0
    assert files(tmp_path) == [f"{entry.name}.refused"]


def test_similar_series_keys_have_entries_of_their_own(outbox: Outbox) -> None:
    for pacs_name, uid in (
        ("A", "1"),
        ("A1", ""),
        ("", "A1"),
        ("..", "/etc"),
        ("é", "x" * 300),
    ):
        outbox.put(new_entry(registration(pacs_name=pacs_name, series_instance_uid=uid)))
    assert outbox.depth() == 5


def test_a_fitted_registration_is_a_small_file_whatever_a_sender_wrote(outbox: Outbox) -> None:
    sent = registration(patient_name="x" * 5_000_000, patient_id="\ud800")
    outbox.put(new_entry(fit(sent)))
    (entry,) = outbox.pending()
    assert entry.registration.series.patient_id == "?"
    assert len(entry.registration.series.patient_name or "") == 150


def test_an_entry_longer_than_any_that_is_read_is_not_written(
    outbox: Outbox, tmp_path: Path
) -> None:
    """It would be an OSError of the disk otherwise, which the relay repeats without end."""
    with pytest.raises(ValueError, match="longer than any outbox entry"):
        outbox.put(new_entry(registration(patient_name="x" * 5_000_000)))
    assert files(tmp_path) == []
