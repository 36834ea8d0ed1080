"""Instances that are not stored, and the responses to their senders (decisions 21, 22, 35).

The fixture's echo shows that the association continues.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import psutil
import pytest

from tests.support.data import (
    Instance,
    element_header,
    new_uid,
)
from tests.support.raw_peer import (
    EXPLICIT,
    MR_IMAGE_STORAGE,
    RawPeer,
)
from tests.support.receiver import Receiver, wait_until
from tests.support.storing import (
    CANNOT_UNDERSTAND,
    ERROR_COMMENT,
    MISMATCH,
    OUT_OF_RESOURCES,
    PROCESSING_FAILURE,
    assert_refused,
    store,
)


@pytest.fixture(scope="module", params=["inline", "threads"])
def receiver(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Receiver]:
    """Yield a receiver for each write mode: both keep the same rules."""
    with Receiver(
        tmp_path_factory.mktemp("files"),
        OXIDICOM_WRITE_MODE=request.param,
        OXIDICOM_QUARANTINE="true",
    ) as receiver:
        yield receiver


@pytest.fixture
def peer(receiver: Receiver) -> Iterator[RawPeer]:
    """Yield an association of AE title PACS1; failures of a test leave it open."""
    with RawPeer(receiver.port) as peer:
        peer.associate(calling=b"PACS1")
        yield peer
        peer.echo(99)
        peer.release()


@pytest.mark.parametrize(
    ("keyword", "tag"),
    [
        ("StudyInstanceUID", 0x0020000D),
        ("SeriesInstanceUID", 0x0020000E),
        ("SOPInstanceUID", 0x00080018),
        ("SOPClassUID", 0x00080016),
        ("PatientID", 0x00100020),
        ("StudyDate", 0x00080020),
    ],
)
@pytest.mark.parametrize("how", ["absent", "empty"])
def test_a_missing_required_tag_refuses_the_instance(
    peer: RawPeer, receiver: Receiver, keyword: str, tag: int, how: str
) -> None:
    instance = Instance()
    if how == "empty":
        instance.values[keyword] = None
    omit = [keyword] if how == "absent" else []
    kept = len(list((receiver.state / "quarantine").glob("*.dcm")))
    data_set = instance.encode(EXPLICIT, omit)
    comment = assert_refused(peer.store(instance.sop_instance, data_set), CANNOT_UNDERSTAND, tag)
    assert keyword in comment
    assert not [path for path in receiver.paths() if instance.sop_instance in path]
    wait_until(
        lambda: len(list((receiver.state / "quarantine").glob("*.dcm"))) == kept + 1,
        "the refused bytes in quarantine",
    )
    newest = max((receiver.state / "quarantine").glob("*.dcm"))
    assert newest.read_bytes().endswith(data_set)


@pytest.mark.parametrize("date", ["202401", "20240231", "31012024", "2024/01/31", "yesterday"])
def test_an_illegal_study_date_refuses_the_instance(peer: RawPeer, date: str) -> None:
    response = store(peer, Instance(StudyDate=date))
    comment = assert_refused(response, CANNOT_UNDERSTAND, 0x00080020)
    assert comment == "Illegal value for tag StudyDate", "and not the value"


def test_uids_must_be_the_commands(peer: RawPeer) -> None:
    instance = Instance()
    response = peer.store(new_uid(), instance.encode(EXPLICIT))
    assert_refused(response, MISMATCH, 0x00080018)
    other_class = Instance(SOPClassUID=MR_IMAGE_STORAGE)
    assert_refused(store(peer, other_class), MISMATCH, 0x00080016)


@pytest.mark.parametrize(
    "data_set",
    [
        pytest.param(b"", id="empty"),
        pytest.param(bytes(1000), id="zeros"),
        pytest.param(bytes(range(256)) * 8, id="noise"),
        pytest.param(b"<?xml version='1.0'?>" * 40, id="text"),
        pytest.param(element_header(0x00080001, "OB", 0xFFFFFFFE), id="element never ends"),
        pytest.param(element_header(0x00081140, "SQ", 0xFFFFFFFF) * 3, id="sequence cut"),
    ],
)
def test_a_data_set_that_cannot_be_parsed_is_refused(peer: RawPeer, data_set: bytes) -> None:
    response = peer.store(new_uid(), data_set)
    assert response.status == CANNOT_UNDERSTAND
    assert 0 < len(response.text(ERROR_COMMENT)) <= 64
    good = Instance()
    assert store(peer, good).status == 0


def test_too_little_free_space_refuses_the_instance(tmp_path: Path) -> None:
    with (
        Receiver(tmp_path, OXIDICOM_MIN_FREE_SPACE="1000TiB") as receiver,
        RawPeer(receiver.port) as peer,
    ):
        peer.associate()
        assert_refused(store(peer, Instance(pixels=500_000)), OUT_OF_RESOURCES)
        assert receiver.files() == []
        peer.echo()
        peer.release()


def test_other_failures_are_processing_failures(tmp_path: Path) -> None:
    (tmp_path / "SERVICES").write_text("a file where a folder belongs")
    with Receiver(tmp_path) as receiver, RawPeer(receiver.port) as peer:
        peer.associate()
        comment = assert_refused(store(peer, Instance()), PROCESSING_FAILURE)
        assert "P1" not in comment
        (tmp_path / "SERVICES").unlink()
        assert store(peer, Instance()).status == 0
        peer.release()
        wait_until(lambda: not receiver.leftovers(), "nothing left behind")


def test_a_journal_that_cannot_be_written_refuses_the_instance(tmp_path: Path) -> None:
    instance = Instance()
    with Receiver(tmp_path) as receiver, RawPeer(receiver.port) as peer:
        peer.associate()
        journal = receiver.state / "journal"
        shutil.rmtree(journal)
        journal.write_text("a file where a folder belongs")
        assert_refused(store(peer, instance), PROCESSING_FAILURE)
        assert receiver.files() == [], "it would not be registered after a crash"
        journal.unlink()
        assert store(peer, instance).status == 0
        peer.release()
        assert receiver.wait_for_registration(instance.series)["ndicom"] == 1


def test_an_outbox_that_cannot_be_written_is_retried(tmp_path: Path) -> None:
    instance = Instance()
    with Receiver(tmp_path) as receiver, RawPeer(receiver.port) as peer:
        outbox = receiver.state / "outbox"
        shutil.rmtree(outbox, ignore_errors=True)
        outbox.write_text("a file where a folder belongs")
        peer.associate()
        assert store(peer, instance).status == 0
        peer.release()
        receiver.wait_for_log("association released")

        def complained() -> bool:
            after = receiver.log()[receiver.log().index(released) :]
            return any(record["level"] in ("WARN", "ERROR") for record in after)

        (released,) = receiver.log("association released")
        wait_until(complained, "its complaint")
        outbox.unlink()
        assert receiver.wait_for_registration(instance.series, 40)["ndicom"] == 1


@pytest.fixture
def small_file_system(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 2 MiB, all of it for the receiver."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("no right to mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_refuses_the_instance(small_file_system: Path) -> None:
    with Receiver(small_file_system) as receiver, RawPeer(receiver.port) as peer:
        peer.associate()
        fits, again = Instance(pixels=500_000), Instance(pixels=500_000)
        assert store(peer, fits).status == 0
        assert_refused(store(peer, Instance(pixels=4_000_000)), OUT_OF_RESOURCES)
        wait_until(lambda: not receiver.leftovers(), "nothing left behind")
        assert store(peer, again).status == 0
        assert receiver.data_set_of(fits.sop_instance) == fits.encode(EXPLICIT)
        peer.release()


def test_exhausted_file_handles_refuse_the_instance(receiver: Receiver) -> None:
    first, second = Instance(), Instance(pixels=200_000)
    process = psutil.Process(receiver.process.pid)
    limit = process.rlimit(psutil.RLIMIT_NOFILE)
    with RawPeer(receiver.port) as peer:
        peer.associate()
        assert store(peer, first).status == 0
        handles: list[set[str]] = []

        def at_rest() -> bool:
            """No handle of a moment, whose number would be free a moment later."""
            handles.append(set(os.listdir(f"/proc/{process.pid}/fd")))
            return len(handles) > 20 and all(each == handles[-1] for each in handles[-20:])

        wait_until(at_rest, "no file opened or closed")
        lowest_free = next(number for number in count() if str(number) not in handles[-1])
        process.rlimit(psutil.RLIMIT_NOFILE, (lowest_free, limit[1]))
        try:
            response = store(peer, second)
        finally:
            process.rlimit(psutil.RLIMIT_NOFILE, limit)
        assert_refused(response, OUT_OF_RESOURCES)
        assert store(peer, second).status == 0
        peer.release()


def test_folders_that_are_removed_are_made_again(receiver: Receiver) -> None:
    series = new_uid()
    instances = [Instance(series=series, number=number) for number in range(1, 4)]
    with RawPeer(receiver.port) as peer:
        peer.associate(calling=b"REMOVED")
        assert store(peer, instances[0]).status == 0
        shutil.rmtree(receiver.root / "SERVICES/PACS/REMOVED")
        assert store(peer, instances[1]).status == 0
        shutil.rmtree(receiver.state / "tmp")
        assert store(peer, instances[2]).status == 0
        peer.release()
    # CUBE compares with the files that are there.
    assert receiver.wait_for_registration(series)["ndicom"] == 2
