"""Stored files over a real port: Part 10 around the bytes received (decisions 20, 23, 24)."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

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
    text_elements,
)
from tests.support.raw_peer import (
    BIG_ENDIAN,
    CT_IMAGE_STORAGE,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    Context,
    RawPeer,
)
from tests.support.receiver import Receiver, stored_data_set
from tests.support.storing import (
    CANNOT_UNDERSTAND,
    store,
)

ENCODINGS = [IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED]


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


PeerOf = Callable[[str], RawPeer]


@pytest.fixture
def peer_of(receiver: Receiver) -> Iterator[PeerOf]:
    """Return a function that opens an association whose context 1 is CT Image Storage in a transfer
    syntax."""
    with contextlib.ExitStack() as stack:

        def associated(transfer_syntax: str) -> RawPeer:
            peer = stack.enter_context(RawPeer(receiver.port))
            peer.associate([Context(1, CT_IMAGE_STORAGE, [transfer_syntax])])
            return peer

        yield associated


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


def test_promiscuous_stores_unknown_classes_and_syntaxes(tmp_path: Path) -> None:
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


def test_syncing_does_not_change_files(tmp_path: Path) -> None:
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
    """Yield elements before the wanted ones that a reader must skip."""
    yield pytest.param([(0x00081140, "SQ", [[], [], []])], True, id="empty items")
    yield pytest.param([(0x00080000, "UL", b"\4\0\0\0")], False, id="group length")
    yield pytest.param([(0x00090010, "LO", b"ACME")], False, id="private block")
    yield pytest.param(
        [(0x00091001, "UN", b"\x20\0\x10\0\xff" * 200)], False, id="UN that misleads"
    )
    yield pytest.param([(0x00091002, "OB", bytes(200_000))], False, id="200 kB of private data")


@pytest.mark.parametrize("transfer_syntax", ENCODINGS)
@pytest.mark.parametrize(("before", "undefined"), list(odd_but_readable()))
def test_elements_before_the_wanted_ones_are_skipped(
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
