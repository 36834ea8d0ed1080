"""Names and folders over a real port (decisions 24 to 29)."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.data import (
    Instance,
    new_uid,
)
from tests.support.raw_peer import (
    EXPLICIT,
    RawPeer,
)
from tests.support.receiver import Receiver, stored_data_set
from tests.support.storing import (
    CANNOT_UNDERSTAND,
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


# ---- names (decisions 24 to 27) -----------------------------------------------------------------


@pytest.mark.parametrize("title", [b"..", b".", b"A/B", b"../../x", b"A B", b"*", b">", b"A\tB"])
def test_titles_stay_one_component(receiver: Receiver, title: bytes) -> None:
    instance = Instance()
    with RawPeer(receiver.port) as peer:
        peer.associate(calling=title)
        assert store(peer, instance).status == 0
        peer.release()
    parts = receiver.path_of(instance.sop_instance).relative_to(receiver.root).parts
    assert len(parts) == 7
    assert parts[:2] == ("SERVICES", "PACS")
    assert not {".", ".."} & set(parts)
    registration = receiver.wait_for_registration(instance.series)
    assert registration["series"]["pacs_name"] == parts[2]


@pytest.mark.parametrize("keyword", ["SeriesNumber", "InstanceNumber", "PatientID", "PatientName"])
@pytest.mark.parametrize("text", ["../../../x", "/etc", "..", ".", "a\nb", "x" * 300])
def test_nothing_leaves_the_root(
    peer: RawPeer, receiver: Receiver, keyword: str, text: str
) -> None:
    instance = Instance()
    instance.values[keyword] = text
    before = set(receiver.files())
    assert store(peer, instance).status == 0
    (path,) = set(receiver.files()) - before
    assert stored_data_set(path) == instance.encode(EXPLICIT)
    parts = path.relative_to(receiver.root).parts
    assert len(parts) == 7
    assert all(len(part.encode()) <= 255 for part in parts)
    outside = [path.name for path in receiver.root.parent.iterdir()]
    assert "x" not in outside
    assert sorted(path.name for path in receiver.root.iterdir()) == [".oxidicom", "SERVICES"]


def test_links_below_the_root_are_not_followed(tmp_path: Path) -> None:
    root, target = tmp_path / "root", tmp_path / "target"
    root.mkdir()
    target.mkdir()
    (tmp_path / "link").symlink_to(root)
    with Receiver(tmp_path / "link") as receiver, RawPeer(receiver.port) as peer:
        peer.associate(calling=b"PACS1")
        first = Instance()
        assert store(peer, first).status == 0, "the root itself may be a link"
        series_folder = receiver.path_of(first.sop_instance).parent
        series_folder.rename(series_folder.with_name("aside"))
        series_folder.symlink_to(target)
        second = Instance(series=first.series)
        assert store(peer, second).status == PROCESSING_FAILURE
        assert list(target.iterdir()) == []
        series_folder.unlink()
        assert store(peer, second).status == 0
        peer.release()


def test_overlong_path_is_refused(peer: RawPeer, receiver: Receiver) -> None:
    # Four components of 255 bytes and more come to over 1024 characters.
    long = "y" * 255
    instance = Instance(
        PatientID=long, PatientName=long, StudyDescription=long, AccessionNumber=long,
        SeriesDescription=long, InstanceNumber="9" * 255, SeriesNumber="9" * 255,
    )  # fmt: skip
    assert_refused(store(peer, instance), CANNOT_UNDERSTAND)
    assert not [path for path in receiver.paths() if instance.sop_instance in path]


# ---- one series (decisions 26, 29) -------------------------------------------------------


def test_series_stays_in_the_folder_of_its_first_instance(
    peer: RawPeer, receiver: Receiver
) -> None:
    first = Instance()
    other = Instance(
        series=first.series,
        PatientName="Other^Name",
        StudyDescription="Else",
        SeriesDescription="Else",
        SeriesNumber="77",
        number=2,
    )
    assert store(peer, first).status == 0
    assert store(peer, other).status == 0
    folder = receiver.path_of(first.sop_instance).parent
    assert receiver.path_of(other.sop_instance).parent == folder
    assert sorted(path.name[:4] for path in folder.iterdir()) == ["0001", "0002"]


def test_repeated_instance_replaces_its_file(receiver: Receiver) -> None:
    first = Instance()
    again = Instance(series=first.series, sop_instance=first.sop_instance, pixels=1000)
    renumbered = Instance(series=first.series, sop_instance=first.sop_instance, number=2)
    with RawPeer(receiver.port) as peer:
        peer.associate()
        for instance in (first, again):
            assert store(peer, instance).status == 0
            stored = receiver.data_set_of(first.sop_instance)
            assert stored == instance.encode(EXPLICIT)
        assert store(peer, renumbered).status == 0
        path = receiver.path_of(first.sop_instance)
        assert path.name.startswith("0002-")
        assert list(path.parent.iterdir()) == [path]
        peer.release()
    assert receiver.wait_for_registration(first.series)["ndicom"] == 1


def test_characters_that_hold_a_backslash_stay_whole(receiver: Receiver) -> None:
    name = "\u4e57^A"
    encoded = name.encode("gb18030")
    assert encoded[:2] == b"\x81\\", "the second octet would separate values"
    instance = Instance(SpecificCharacterSet="GB18030", PatientName=encoded)
    with RawPeer(receiver.port) as peer:
        peer.associate()
        assert store(peer, instance).status == 0
        peer.release()
    folder = receiver.path_of(instance.sop_instance).relative_to(receiver.root).parts[3]
    assert folder == "P1-_A-19800102"
    assert receiver.wait_for_registration(instance.series)["series"]["patient_name"] == name


def test_senders_of_the_same_instances_at_once_leave_one_file_each(receiver: Receiver) -> None:
    series = new_uid()
    uids = [new_uid() for _ in range(20)]

    def send(sender: int) -> None:
        with RawPeer(receiver.port) as peer:
            peer.associate()
            for turn in range(5):
                for index, uid in enumerate(uids):
                    number = 10 * index + (turn + sender) % 7
                    instance = Instance(series=series, sop_instance=uid, number=number)
                    instance.values["PatientName"] = f"Sender^{sender}"
                    assert store(peer, instance).status == 0
            peer.release()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(send, range(4)))
    files = [path for path in receiver.files() if path.name.partition("-")[2][:-4] in uids]
    assert len(files) == len(uids)
    assert len({path.parent for path in files}) == 1
    assert receiver.wait_for_registration(series)["ndicom"] == len(uids)


def test_uids_far_too_long(peer: RawPeer, receiver: Receiver) -> None:
    # The path has a hash of the one; the file name is cut for the other (decision 25).
    long = "1." * 700 + "1"
    instance = Instance(series=long, sop_instance=long)
    before = set(receiver.files())
    assert store(peer, instance).status == 0
    (path,) = set(receiver.files()) - before
    assert len(path.name) <= 255
    assert path.name.startswith("0001-1.1.1.")
    assert stored_data_set(path) == instance.encode(EXPLICIT)
