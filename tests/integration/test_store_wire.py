"""C-STORE, names and files over a real port (decisions 20 to 27)."""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pydicom
import pytest

from tests.support.data import (
    PIXEL_DATA,
    Element,
    Instance,
    deep_sequence,
    deflated,
    element_header,
    encode,
    new_uid,
    text_elements,
)
from tests.support.raw_peer import (
    BIG_ENDIAN,
    CT_IMAGE_STORAGE,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    MR_IMAGE_STORAGE,
    Context,
    RawPeer,
    Response,
)
from tests.support.receiver import Receiver, stored_data_set, wait_until

ENCODINGS = [IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED]

OUT_OF_RESOURCES, MISMATCH, CANNOT_UNDERSTAND, PROCESSING_FAILURE = 0xA700, 0xA900, 0xC000, 0x0110

OFFENDING_ELEMENT, ERROR_COMMENT = 0x0901, 0x0902


@pytest.fixture(scope="module", params=["inline", "threads"])
def receiver(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Receiver]:
    """Both ways to write keep the same rules."""
    with Receiver(
        tmp_path_factory.mktemp("files"),
        OXIDICOM_WRITE_MODE=request.param,
        OXIDICOM_QUARANTINE="true",
    ) as receiver:
        yield receiver


@pytest.fixture
def peer(receiver: Receiver) -> Iterator[RawPeer]:
    """An association of AE title PACS1; the test's failures leave it open and working."""
    with RawPeer(receiver.port) as peer:
        peer.associate(calling=b"PACS1")
        yield peer
        peer.echo(99)
        peer.release()


PeerOf = Callable[[str], RawPeer]


@pytest.fixture
def peer_of(receiver: Receiver) -> Iterator[PeerOf]:
    """An association whose context 1 is CT Image Storage in the given transfer syntax."""
    with contextlib.ExitStack() as stack:

        def associated(transfer_syntax: str) -> RawPeer:
            peer = stack.enter_context(RawPeer(receiver.port))
            peer.associate([Context(1, CT_IMAGE_STORAGE, [transfer_syntax])])
            return peer

        yield associated


def store(peer: RawPeer, instance: Instance) -> Response:
    return peer.store(
        instance.sop_instance, instance.encode(EXPLICIT), sop_class=instance.sop_class
    )


def assert_refused(response: Response, status: int, offending: int | None = None) -> str:
    """The Error Comment."""
    assert response.status == status
    comment = response.text(ERROR_COMMENT)
    assert 0 < len(comment) <= 64
    if offending is None:
        assert OFFENDING_ELEMENT not in response.elements
    else:
        group, element = struct.unpack("<HH", response.elements[OFFENDING_ELEMENT])
        assert group << 16 | element == offending
    return comment


# ---- the file --------------------------------------------------------------------------------


@pytest.mark.parametrize("transfer_syntax", ENCODINGS)
def test_file_is_part_10_around_the_bytes_received(
    receiver: Receiver, transfer_syntax: str
) -> None:
    instance = Instance(pixels=3000)
    data_set = instance.encode(transfer_syntax)
    with RawPeer(receiver.port) as peer:
        peer.associate([Context(1, CT_IMAGE_STORAGE, [transfer_syntax])], calling=b"SCANNER 1")
        assert peer.store(instance.sop_instance, data_set).status == 0
        # Acknowledged means stored: no waiting here.
        path = receiver.path_of(instance.sop_instance)
        content = path.read_bytes()
        peer.release()
    assert content[:132] == bytes(128) + b"DICM"
    assert content.endswith(data_set)
    read = pydicom.dcmread(path)
    assert len(content) == 144 + read.file_meta[0x00020000].value + len(data_set)
    assert {element.keyword: element.value for element in read.file_meta} == {
        "FileMetaInformationGroupLength": read.file_meta[0x00020000].value,
        "FileMetaInformationVersion": b"\0\1",
        "MediaStorageSOPClassUID": CT_IMAGE_STORAGE,
        "MediaStorageSOPInstanceUID": instance.sop_instance,
        "TransferSyntaxUID": transfer_syntax,
        "ImplementationClassUID": "2.25.117331928044563620163047551370904427358",
        "ImplementationVersionName": "OXIDICOM_PY_1",
        "SourceApplicationEntityTitle": "SCANNER 1",
    }
    assert read.PatientName == "Doe^Jane"
    assert len(read.PixelData) == 3000


def test_encapsulated_pixels_are_kept_as_they_are(peer_of: PeerOf, receiver: Receiver) -> None:
    jpeg = "1.2.840.10008.1.2.4.50"
    instance = Instance()
    frames = [b"\xff\xd8" + bytes(range(256)) * 300 + b"\xff\xd9", b"\xff\xd8odd\xff\xd9\0"]
    items = b"".join(
        struct.pack("<HHI", 0xFFFE, 0xE000, len(frame)) + frame for frame in (b"", *frames)
    )
    pixels = element_header(PIXEL_DATA, "OB", 0xFFFFFFFF) + items
    data_set = encode(instance.elements()[:-1], EXPLICIT) + pixels + b"\xfe\xff\xdd\xe0" + bytes(4)
    assert peer_of(jpeg).store(instance.sop_instance, data_set).status == 0
    path = receiver.path_of(instance.sop_instance)
    assert stored_data_set(path) == data_set
    read = pydicom.dcmread(path)
    assert read.file_meta.TransferSyntaxUID == jpeg
    assert frames[0] in read.PixelData


@pytest.mark.parametrize("padding", [b" ", b"\0", b"  ", b" \0"])
def test_padding_of_uids_is_no_mismatch(peer: RawPeer, receiver: Receiver, padding: bytes) -> None:
    instance = Instance()
    uid = instance.sop_instance.encode() + padding
    instance.values["SOPInstanceUID"] = uid + b"\0" * (len(uid) % 2)
    data_set = instance.encode(EXPLICIT)
    before = set(receiver.files())
    assert peer.store(instance.sop_instance, data_set).status == 0
    (path,) = set(receiver.files()) - before
    assert stored_data_set(path) == data_set


def test_promiscuous_stores_what_it_does_not_know(tmp_path: Path) -> None:
    instance = Instance(sop_class="1.2.3.4.5")
    with (
        Receiver(tmp_path, OXIDICOM_SCP_PROMISCUOUS="true") as receiver,
        RawPeer(receiver.port) as peer,
    ):
        peer.associate([Context(1, "1.2.3.4.5", ["1.2.3.4.5.6"])])
        assert store(peer, instance).status == 0
        peer.release()
        path = receiver.path_of(instance.sop_instance)
        assert stored_data_set(path) == instance.encode(EXPLICIT)
        meta = pydicom.dcmread(path, force=True, stop_before_pixels=True).file_meta
        assert meta.TransferSyntaxUID == "1.2.3.4.5.6"
        assert meta.MediaStorageSOPClassUID == "1.2.3.4.5"


def test_synced_files_are_the_same_files(tmp_path: Path) -> None:
    instances = [Instance(pixels=size) for size in (100, 100_000, 3_000_000)]
    with Receiver(tmp_path, OXIDICOM_FSYNC="true") as receiver, RawPeer(receiver.port) as peer:
        peer.associate()
        for instance in instances:
            assert store(peer, instance).status == 0
            assert receiver.data_set_of(instance.sop_instance) == instance.encode(EXPLICIT)
        peer.release()
        for instance in instances:
            assert receiver.wait_for_registration(instance.series)["ndicom"] == 1


def odd_but_readable() -> Iterator[object]:
    """Elements in front of the wanted ones that a reader must step over."""
    yield pytest.param([(0x00081140, "SQ", [[], [], []])], True, id="empty items")
    yield pytest.param([(0x00080000, "UL", b"\4\0\0\0")], False, id="group length")
    yield pytest.param([(0x00090010, "LO", b"ACME")], False, id="private block")
    yield pytest.param(
        [(0x00091001, "UN", b"\x20\0\x10\0\xff" * 200)], False, id="UN that misleads"
    )
    yield pytest.param([(0x00091002, "OB", bytes(200_000))], False, id="200 kB of private data")


@pytest.mark.parametrize("transfer_syntax", ENCODINGS)
@pytest.mark.parametrize(("before", "undefined"), list(odd_but_readable()))
def test_what_stands_before_the_wanted_elements(
    peer_of: PeerOf,
    receiver: Receiver,
    transfer_syntax: str,
    before: list[Element],
    undefined: bool,
) -> None:
    instance = Instance()
    if transfer_syntax == BIG_ENDIAN and before[0][0] == 0x00080000:
        before = [(0x00080000, "UL", b"\0\0\0\4")]
    elements = sorted([*before, *instance.elements()], key=lambda element: element[0])
    data_set = encode(elements, transfer_syntax, undefined_lengths=undefined)
    assert peer_of(transfer_syntax).store(instance.sop_instance, data_set).status == 0
    assert receiver.data_set_of(instance.sop_instance) == data_set


@pytest.mark.parametrize("transfer_syntax", ENCODINGS)
@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("depth", [64, 20_000])
def test_depth_of_sequences(
    peer_of: PeerOf, receiver: Receiver, transfer_syntax: str, undefined: bool, depth: int
) -> None:
    instance = Instance()
    plain = EXPLICIT if transfer_syntax == DEFLATED else transfer_syntax
    first = encode(text_elements({"SpecificCharacterSet": "ISO_IR 100"}), plain)
    rest = instance.encode(plain)
    assert rest.startswith(first)
    sequence = deep_sequence(0x00080006, depth, plain, undefined=undefined)
    data_set = first + sequence + rest[len(first) :]
    if transfer_syntax == DEFLATED:
        data_set = deflated(data_set)
    assert peer_of(transfer_syntax).store(instance.sop_instance, data_set).status == 0
    assert receiver.data_set_of(instance.sop_instance) == data_set


def test_deflate_bomb_costs_no_memory(receiver: Receiver) -> None:
    instance = Instance()
    bomb: list[Element] = [(0x00080001, "OB", bytes(256 << 20))]
    data_set = encode([*bomb, *instance.elements()], DEFLATED)
    assert len(data_set) < 1 << 20
    before = receiver.peak_memory()
    with RawPeer(receiver.port) as peer:
        peer.associate([Context(1, CT_IMAGE_STORAGE, [DEFLATED])])
        assert peer.store(instance.sop_instance, data_set).status in (0, CANNOT_UNDERSTAND)
        peer.release()
    assert receiver.peak_memory() - before < 32 << 20


# ---- refusals (decision 21); the fixture's echo shows that the association goes on ---------


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
def test_required_tag_missing(
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
def test_illegal_study_date(peer: RawPeer, date: str) -> None:
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
def test_garbage(peer: RawPeer, data_set: bytes) -> None:
    response = peer.store(new_uid(), data_set)
    assert response.status == CANNOT_UNDERSTAND
    assert 0 < len(response.text(ERROR_COMMENT)) <= 64
    good = Instance()
    assert store(peer, good).status == 0


def test_too_little_free_space(tmp_path: Path) -> None:
    with (
        Receiver(tmp_path, OXIDICOM_MIN_FREE_SPACE="1000TiB") as receiver,
        RawPeer(receiver.port) as peer,
    ):
        peer.associate()
        assert_refused(store(peer, Instance(pixels=500_000)), OUT_OF_RESOURCES)
        assert receiver.files() == []
        peer.echo()
        peer.release()


def test_other_failures_of_ours(tmp_path: Path) -> None:
    (tmp_path / "SERVICES").write_text("a file where a folder belongs")
    with Receiver(tmp_path) as receiver, RawPeer(receiver.port) as peer:
        peer.associate()
        comment = assert_refused(store(peer, Instance()), PROCESSING_FAILURE)
        assert "P1" not in comment
        (tmp_path / "SERVICES").unlink()
        assert store(peer, Instance()).status == 0
        peer.release()
        assert receiver.leftovers() == []


def test_journal_that_cannot_be_written_refuses(tmp_path: Path) -> None:
    instance = Instance()
    with Receiver(tmp_path) as receiver, RawPeer(receiver.port) as peer:
        peer.associate()
        journal = receiver.state / "journal"
        shutil.rmtree(journal)
        journal.write_text("a file where a folder belongs")
        assert_refused(store(peer, instance), PROCESSING_FAILURE)
        assert receiver.files() == [], "what nobody would register after a crash"
        journal.unlink()
        assert store(peer, instance).status == 0
        peer.release()
        assert receiver.wait_for_registration(instance.series)["ndicom"] == 1


def test_outbox_that_cannot_be_written_is_tried_again(tmp_path: Path) -> None:
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
    """2 MiB, all of it the receiver's."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("no right to mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_full_disk(small_file_system: Path) -> None:
    with Receiver(small_file_system) as receiver, RawPeer(receiver.port) as peer:
        peer.associate()
        fits, again = Instance(pixels=500_000), Instance(pixels=500_000)
        assert store(peer, fits).status == 0
        assert_refused(store(peer, Instance(pixels=4_000_000)), OUT_OF_RESOURCES)
        assert receiver.leftovers() == []
        assert store(peer, again).status == 0
        assert receiver.data_set_of(fits.sop_instance) == fits.encode(EXPLICIT)
        peer.release()


def test_no_file_handle_left(receiver: Receiver) -> None:
    first, second = Instance(), Instance(pixels=200_000)
    process = psutil.Process(receiver.process.pid)
    limit = process.rlimit(psutil.RLIMIT_NOFILE)
    with RawPeer(receiver.port) as peer:
        peer.associate()
        assert store(peer, first).status == 0
        highest = max(int(name) for name in os.listdir(f"/proc/{process.pid}/fd"))
        process.rlimit(psutil.RLIMIT_NOFILE, (highest + 1, limit[1]))
        try:
            response = store(peer, second)
        finally:
            process.rlimit(psutil.RLIMIT_NOFILE, limit)
        assert_refused(response, OUT_OF_RESOURCES)
        assert store(peer, second).status == 0
        peer.release()


def test_folders_removed_under_our_feet(receiver: Receiver) -> None:
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


def test_senders_of_the_same_instances_at_once(receiver: Receiver) -> None:
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
    # The path holds a hash of the one; the file name is cut for the other (25).
    long = "1." * 700 + "1"
    instance = Instance(series=long, sop_instance=long)
    before = set(receiver.files())
    assert store(peer, instance).status == 0
    (path,) = set(receiver.files()) - before
    assert len(path.name) <= 255
    assert path.name.startswith("0001-1.1.1.")
    assert stored_data_set(path) == instance.encode(EXPLICIT)
