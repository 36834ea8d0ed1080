"""Data of hostile peers are refused or stored safely, case after case by one receiver.

After every case the receiver answers a C-ECHO in time, has needed no more memory than for an
honest peer, has written nothing outside of its files root or through a link, and tells no value
in its log.
"""

from __future__ import annotations

import re
import struct
import time
import zlib
from collections.abc import Iterator

import pytest

from tests.support import raw_peer as raw
from tests.support.data import (
    PIXEL_DATA,
    UNDEFINED,
    Instance,
    deep_sequence,
    deflated,
    element_header,
    encode,
)
from tests.support.hostile import IN_TIME, MARK, Place
from tests.support.raw_peer import (
    CT_IMAGE_STORAGE,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    VERIFICATION,
    Context,
    RawPeer,
    p_data,
    pdv,
)
from tests.support.receiver import Receiver, stored_data_set
from tests.support.storing import CANNOT_UNDERSTAND, MISMATCH, PROCESSING_FAILURE, request, store

INVALID = (2, 6)
GIB_4 = 0xFFFFFFFF
CONTEXTS = [
    Context(1, CT_IMAGE_STORAGE, [EXPLICIT]),
    Context(3, VERIFICATION, [IMPLICIT]),
    Context(5, CT_IMAGE_STORAGE, [IMPLICIT]),
    Context(7, CT_IMAGE_STORAGE, [DEFLATED]),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="module")
def the_receiver(place: Place) -> Iterator[Receiver]:
    with Receiver(place.root, OXIDICOM_LOG_LEVEL="debug") as receiver:
        yield receiver


@pytest.fixture
def receiver(the_receiver: Receiver, place: Place) -> Iterator[Receiver]:
    yield the_receiver
    place.check(the_receiver)


@pytest.fixture
def peer(receiver: Receiver) -> Iterator[RawPeer]:
    with RawPeer(receiver.port, timeout=20) as peer:
        peer.associate(CONTEXTS, calling=b"HOSTILE")
        yield peer


def send_store(peer: RawPeer, one: Instance, data_set: bytes, context_id: int = 1) -> int:
    return peer.store(one.sop_instance, data_set, context_id=context_id).status


def assert_nothing_of(receiver: Receiver, one: Instance) -> None:
    assert not [path for path in receiver.paths() if one.sop_instance in path]


# ---- lengths -----------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [GIB_4, 0x80000000, 0x7FFFFFFF, 256 * 1024 + 1])
def test_a_request_of_gigabytes(receiver: Receiver, length: int) -> None:
    with RawPeer(receiver.port, timeout=IN_TIME) as peer:
        peer.send(raw.pdu(raw.RQ, b"", length))
        peer.expect_abort(*INVALID)


@pytest.mark.parametrize("kind", [raw.RELEASE_RQ, raw.ABORT])
def test_a_release_or_abort_of_gigabytes(peer: RawPeer, kind: int) -> None:
    peer.send(raw.pdu(kind, b"", GIB_4))
    peer.expect_abort(*INVALID)


@pytest.mark.parametrize("length", [GIB_4, GIB_4 - 4])
def test_a_command_of_gigabytes(peer: RawPeer, length: int) -> None:
    """The first is longer than its PDU as well."""
    peer.send(raw.pdu(raw.P_DATA_TF, struct.pack(">IBB", length, 1, 1), GIB_4))
    peer.expect_abort(*INVALID)


def test_a_fragment_of_gigabytes_of_which_some_come(peer: RawPeer, receiver: Receiver) -> None:
    one = Instance()
    peer.send(p_data(pdv(1, request(one), command=True, last=True)))
    peer.send(raw.pdu(raw.P_DATA_TF, struct.pack(">IBB", GIB_4 - 4, 1, 0), GIB_4))
    peer.send(one.encode(EXPLICIT))
    for _ in range(64):
        peer.send(bytes(1 << 20))
    peer.finish_sending()
    peer.expect_close()
    assert_nothing_of(receiver, one)


@pytest.mark.parametrize("length", [GIB_4 - 1, 0x80000000, 0x7FFFFFFE])
@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
@pytest.mark.parametrize(
    ("tag", "vr"), [(0x00080001, "UN"), (0x00081111, "SQ"), (0x00100020, "UT")]
)
def test_an_element_of_gigabytes(
    peer: RawPeer, receiver: Receiver, tag: int, vr: str, syntax: str, length: int
) -> None:
    one = Instance()
    before = [element for element in one.elements() if element[0] < tag]
    header = element_header(tag, vr, length, implicit=syntax == IMPLICIT)
    data_set = encode(before, syntax) + header + one.encode(syntax)
    context_id = 1 if syntax == EXPLICIT else 5
    assert send_store(peer, one, data_set, context_id) == CANNOT_UNDERSTAND
    assert_nothing_of(receiver, one)


def test_an_item_of_gigabytes(peer: RawPeer, receiver: Receiver) -> None:
    one = Instance()
    before = [element for element in one.elements() if element[0] < 0x00081111]
    sequence = element_header(0x00081111, "SQ", UNDEFINED)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, GIB_4 - 1)
    data_set = encode(before, EXPLICIT) + sequence + item + one.encode(EXPLICIT)
    assert send_store(peer, one, data_set) == CANNOT_UNDERSTAND
    assert_nothing_of(receiver, one)


def test_pixels_of_gigabytes_that_do_not_come(peer: RawPeer, receiver: Receiver) -> None:
    """Pixels are never looked at (decision 23)."""
    one = Instance()
    data_set = encode(one.elements()[:-1], EXPLICIT) + element_header(PIXEL_DATA, "OW", GIB_4 - 1)
    assert send_store(peer, one, data_set) == 0
    assert receiver.data_set_of(one.sop_instance) == data_set


# ---- depth, bombs ------------------------------------------------------------------------------


@pytest.mark.parametrize("undefined", [True, False])
@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_sequences_20000_deep(
    peer: RawPeer, receiver: Receiver, syntax: str, undefined: bool
) -> None:
    one = Instance()
    elements = one.elements()
    head = encode([element for element in elements if element[0] < 0x00081111], syntax)
    rest = encode([element for element in elements if element[0] > 0x00081111], syntax)
    deep = deep_sequence(0x00081111, 20_000, syntax, undefined=undefined)
    context_id = 1 if syntax == EXPLICIT else 5
    assert send_store(peer, one, head + deep + rest, context_id) == 0
    assert receiver.data_set_of(one.sop_instance) == head + deep + rest
    if undefined:
        other = Instance()
        assert send_store(peer, other, head + deep[:-8] + rest, context_id) == CANNOT_UNDERSTAND
        assert_nothing_of(receiver, other)


def test_a_deflate_bomb(peer: RawPeer, receiver: Receiver) -> None:
    one = Instance()
    stream = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    bomb = stream.compress(element_header(0x00080001, "UN", GIB_4 - 1))
    zeros = bytes(1 << 20)
    bomb += b"".join(stream.compress(zeros) for _ in range(128)) + stream.flush()
    began = time.monotonic()
    assert send_store(peer, one, bomb, 7) == CANNOT_UNDERSTAND
    assert time.monotonic() - began < IN_TIME
    assert_nothing_of(receiver, one)


@pytest.mark.parametrize("complete", [True, False])
def test_megabytes_after_the_end_of_a_deflated_stream(
    peer: RawPeer, receiver: Receiver, complete: bool
) -> None:
    one = Instance()
    data_set = deflated(encode(one.elements() if complete else (), EXPLICIT)) + bytes(32 << 20)
    began = time.monotonic()
    status = send_store(peer, one, data_set, 7)
    assert time.monotonic() - began < IN_TIME
    assert status == (0 if complete else CANNOT_UNDERSTAND)
    if complete:
        assert receiver.data_set_of(one.sop_instance) == data_set


# ---- names -------------------------------------------------------------------------------------

FIELDS = (
    "PatientID", "PatientName", "PatientBirthDate", "StudyDescription", "AccessionNumber",
    "StudyDate", "SeriesNumber", "SeriesDescription", "InstanceNumber", "SOPInstanceUID",
    "SeriesInstanceUID", "StudyInstanceUID", "SOPClassUID", "Modality", "ProtocolName",
    "PatientAge", "SpecificCharacterSet",
)  # fmt: skip
TEXTS = (
    f"../../../../../{MARK}", f"/{MARK}", f"..\0/../{MARK}", "..", ".", "/", "", "\0", f"~/{MARK}",
    f"{MARK}\\..\\..\\..", f"\x1b[2J\r\n\x07\x7f{MARK}", f"\x1b$B../{MARK}", f"{MARK}\nlevel=error",
    f"%2e%2e%2f{MARK}", f"{MARK}/" * 100, "\xff\xfe" + MARK, "$(touch x)" + MARK,
)  # fmt: skip


@pytest.mark.parametrize("keyword", FIELDS)
def test_a_value_stays_one_component(peer: RawPeer, receiver: Receiver, keyword: str) -> None:
    for text in TEXTS:
        if keyword.endswith("UID"):
            text = text.replace(MARK, "uid")  # these are told, escaped
        one = Instance()
        one.values[keyword] = text
        if keyword == "SOPInstanceUID":
            one.sop_instance = text
        if keyword == "SOPClassUID":
            one.sop_class = text
        before = set(receiver.files())
        if keyword in ("SOPInstanceUID", "SOPClassUID") and not text.strip("\0 "):
            continue  # a command without it is none (decision 17)
        command = raw.c_store_rq(one.sop_class, one.sop_instance)
        data_set = one.encode(EXPLICIT)
        peer.send(raw.store_message(1, command, data_set))
        status = peer.response().status
        added = set(receiver.files()) - before
        if status:
            assert status in (CANNOT_UNDERSTAND, MISMATCH)
            assert not added
        elif added:  # else another of these texts, which is sanitised to the same name, is replaced
            (path,) = added
            assert stored_data_set(path) == data_set
            parts = path.relative_to(receiver.root).parts
            assert not {".", "..", ""} & set(parts)
            assert all(re.fullmatch(r"[A-Za-z0-9._-]{1,255}", part) for part in parts[3:])
        else:
            assert keyword == "SOPInstanceUID"
    peer.release()


TITLES = (
    b"..", b".", b"/", b"../../title", b"/title", b"A\0B", b"\x1b[2J", b"A\nB", b"\xff\xfe",
    bytes(16),
)  # fmt: skip


@pytest.mark.parametrize("title", TITLES)
def test_titles_stay_one_component(receiver: Receiver, title: bytes) -> None:
    one = Instance()
    with RawPeer(receiver.port, timeout=IN_TIME) as peer:
        peer.associate(calling=title, called=title)
        assert store(peer, one).status == 0
        peer.release()
    parts = receiver.path_of(one.sop_instance).relative_to(receiver.root).parts
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,16}", parts[2])
    assert parts[2] not in (".", "..")


# ---- links -------------------------------------------------------------------------------------

DEPTHS = {"SERVICES": 1, "PACS": 2, "peer": 3, "patient": 4, "study": 5, "series": 6}


@pytest.mark.parametrize("depth", DEPTHS.values(), ids=DEPTHS)
@pytest.mark.parametrize("open_association", [True, False], ids=["swapped in", "planted"])
def test_a_link_is_not_followed(
    receiver: Receiver, place: Place, depth: int, open_association: bool
) -> None:
    first = Instance()
    second, third, fourth = (Instance(series=first.series, number=n) for n in (2, 3, 4))
    with RawPeer(receiver.port, timeout=IN_TIME) as peer:
        peer.associate(calling=b"LINKS")
        for one in (first, second):  # the second takes the fast path to its end
            assert store(peer, one).status == 0
        path = receiver.path_of(first.sop_instance)
        parts = path.relative_to(receiver.root).parts
        folder = receiver.root.joinpath(*parts[:depth])
        aside = receiver.root / ".oxidicom" / "aside"
        if not open_association:
            peer.release()
        folder.rename(aside)
        folder.symlink_to(place.outside, target_is_directory=True)
        try:
            with RawPeer(receiver.port, timeout=IN_TIME) as later:
                later.associate(calling=b"LINKS")
                for asked in (later, peer) if open_association else (later,):
                    assert store(asked, third).status == PROCESSING_FAILURE
                later.release()
            place.check_outside()
        finally:
            folder.unlink()
            aside.rename(folder)
        if open_association:
            assert store(peer, fourth).status == 0
            assert receiver.path_of(fourth.sop_instance).parent == path.parent
            peer.release()


def test_a_link_under_an_instances_name_is_replaced(receiver: Receiver, place: Place) -> None:
    one = Instance()
    with RawPeer(receiver.port, timeout=IN_TIME) as peer:
        peer.associate(calling=b"LINKS")
        assert store(peer, one).status == 0
        path = receiver.path_of(one.sop_instance)
        path.unlink()
        path.symlink_to(place.outside / "file")
        assert store(peer, one).status == 0
        assert not path.is_symlink()
        assert stored_data_set(path) == one.encode(EXPLICIT)
        peer.release()


# ---- numbers -----------------------------------------------------------------------------------


def answer_to(receiver: Receiver, rq: bytes) -> raw.Pdu:
    began = time.monotonic()
    with RawPeer(receiver.port, timeout=IN_TIME) as peer:
        peer.send(rq)
        answer = peer.receive()
    assert time.monotonic() - began < IN_TIME
    return answer


def test_items_within_256_kib_and_beyond(receiver: Receiver) -> None:
    fitting, beyond = (raw.item(0x77, b"") * count for count in (65_000, 100_000))
    assert answer_to(receiver, raw.associate_rq(CONTEXTS, other_items=fitting)).type == raw.AC
    answer = answer_to(receiver, raw.associate_rq(CONTEXTS, other_items=beyond))
    assert (answer.type, tuple(answer.body[2:])) == (raw.ABORT, INVALID)


@pytest.mark.parametrize("uid", ["1.2", CT_IMAGE_STORAGE])
def test_10000_presentation_contexts(receiver: Receiver, uid: str) -> None:
    contexts = [Context(n % 128 * 2 + 1, uid, [uid]) for n in range(10_000)]
    answer = answer_to(receiver, raw.associate_rq(contexts))
    assert answer.type in (raw.AC, raw.RJ, raw.ABORT)
    assert len(answer.body) < 512 * 1024


def test_a_uid_of_64_kib_in_a_request(receiver: Receiver) -> None:
    long = "1." * 32_700 + "1"
    for context in (Context(1, long, [EXPLICIT]), Context(1, CT_IMAGE_STORAGE, [long])):
        answer = answer_to(receiver, raw.associate_rq([context]))
        assert answer.type == raw.AC
        assert raw.context_results(answer.body)[1][0] != 0
        assert len(answer.body) < 1024


def test_uids_of_64_kib(peer: RawPeer, receiver: Receiver) -> None:
    long = "1." * 32_700 + "1"
    for keyword in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
        one = Instance()
        one.values[keyword] = long
        sop_class = long if keyword == "SOPClassUID" else one.sop_class
        sop_instance = long if keyword == "SOPInstanceUID" else one.sop_instance
        command = raw.c_store_rq(sop_class, sop_instance)
        peer.send(raw.store_message(5, command, one.encode(IMPLICIT)))
        response = peer.response_in_fragments(16384)
        assert response.status in (0, CANNOT_UNDERSTAND, MISMATCH)
    peer.release()


@pytest.mark.parametrize("command", [True, False])
def test_a_million_empty_pdvs(peer: RawPeer, receiver: Receiver, command: bool) -> None:
    one = Instance()
    empty = pdv(1, b"", command=command, last=False) * 1_000_000
    whole = p_data(pdv(1, request(one), command=True, last=True))
    data = p_data(pdv(1, one.encode(EXPLICIT), command=False, last=True))
    began = time.monotonic()
    peer.send(p_data(empty) + whole + data if command else whole + p_data(empty) + data)
    assert peer.response().status == 0
    assert time.monotonic() - began < 60
    assert receiver.data_set_of(one.sop_instance) == one.encode(EXPLICIT)
    peer.release()


def test_empty_pdus(peer: RawPeer, receiver: Receiver) -> None:
    peer.send(raw.pdu(raw.P_DATA_TF, b"") * 100_000)
    peer.echo()
    peer.send(raw.pdu(raw.RELEASE_RQ, b""))
    peer.expect_abort(*INVALID)
    for kind in range(10):
        with RawPeer(receiver.port, timeout=IN_TIME) as stranger:
            stranger.send(raw.pdu(kind, b""))
            body = stranger.expect(raw.ABORT)
            assert body[2] == 2
            stranger.expect_close()
