"""Associations that are accepted, over a real port (PS3.8; decisions 9, 11 to 13)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.data import VECTORS, Instance
from tests.support.raw_peer import (
    AC,
    BIG_ENDIAN,
    CT_IMAGE_STORAGE,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    VERIFICATION,
    Context,
    RawPeer,
    associate_rq,
    c_store_rq,
    context_results,
    item,
    items,
    store_message,
    user_information,
)
from tests.support.receiver import Receiver

ECHO = [Context(3, VERIFICATION, [IMPLICIT])]

ACCEPTED, NO_ABSTRACT, NO_TRANSFER = 0, 3, 4


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    with Receiver(tmp_path_factory.mktemp("files")) as receiver:
        yield receiver


@pytest.fixture(autouse=True)
def next_association_works(receiver: Receiver) -> Iterator[None]:
    """Check after each test that the next peer is served (promise 6)."""
    yield
    with RawPeer(receiver.port) as peer:
        peer.associate(ECHO)
        peer.echo()
        peer.release()


def accept(receiver: Receiver, *contexts: Context) -> dict[int, tuple[int, str]]:
    with RawPeer(receiver.port) as peer:
        results = context_results(peer.associate(contexts))
        peer.release()
    return results


def user_items(body: bytes) -> dict[int, bytes]:
    return dict(items(user_information(body)))


def test_the_acceptance_repeats_titles_and_names_the_implementation(receiver: Receiver) -> None:
    with RawPeer(receiver.port) as peer:
        body = peer.associate(calling=b"SOMEBODY", called=b"WHOEVER")
        peer.release()
    assert struct.unpack_from(">H", body) == (1,)
    assert body[4:20] == b"WHOEVER".ljust(16)
    assert body[20:36] == b"SOMEBODY".ljust(16)
    told = user_items(body)
    assert told[0x51] == struct.pack(">I", 131072), "decision 6"
    assert told[0x52] == b"2.25.117331928044563620163047551370904427358"
    assert told[0x55] == b"OXIDICOM_PY_1"


def test_the_first_acceptable_transfer_syntax_of_the_requestor_is_accepted(
    receiver: Receiver,
) -> None:
    results = accept(
        receiver,
        Context(1, CT_IMAGE_STORAGE, [EXPLICIT, IMPLICIT]),
        Context(3, CT_IMAGE_STORAGE, [IMPLICIT, EXPLICIT]),
        Context(5, CT_IMAGE_STORAGE, ["1.2.3.4", BIG_ENDIAN, EXPLICIT]),
        Context(7, CT_IMAGE_STORAGE, ["1.2.840.10008.1.2.4.90", IMPLICIT]),
        Context(9, CT_IMAGE_STORAGE, [DEFLATED]),
    )
    assert results == {
        1: (ACCEPTED, EXPLICIT),
        3: (ACCEPTED, IMPLICIT),
        5: (ACCEPTED, BIG_ENDIAN),
        7: (ACCEPTED, "1.2.840.10008.1.2.4.90"),
        9: (ACCEPTED, DEFLATED),
    }


def test_unknown_syntaxes_are_rejected_in_each_context(receiver: Receiver) -> None:
    results = accept(
        receiver,
        Context(1, "1.2.3", [IMPLICIT]),
        Context(3, CT_IMAGE_STORAGE, ["1.2.3.4"]),
        Context(5, CT_IMAGE_STORAGE, ["1.2.840.10008.1.2.6.2"]),  # XML
        Context(7, "1.2.840.10008.5.1.4.1.2.2.1", [IMPLICIT]),  # C-FIND
        Context(255, CT_IMAGE_STORAGE, [IMPLICIT]),
    )
    assert {context: result for context, (result, _) in results.items()} == {
        1: NO_ABSTRACT,
        3: NO_TRANSFER,
        5: NO_TRANSFER,
        7: NO_ABSTRACT,
        255: ACCEPTED,
    }


def test_every_abstract_syntax_of_the_reference_is_accepted(receiver: Receiver) -> None:
    known = VECTORS["abstract_syntaxes"]
    for start in range(0, len(known), 128):
        contexts = [
            Context(2 * index + 1, syntax, [IMPLICIT])
            for index, syntax in enumerate(known[start : start + 128])
        ]
        results = accept(receiver, *contexts)
        assert set(results.values()) == {(ACCEPTED, IMPLICIT)}
        assert len(results) == len(contexts)


def test_every_transfer_syntax_of_the_reference_is_accepted(receiver: Receiver) -> None:
    contexts = [
        Context(2 * index + 1, CT_IMAGE_STORAGE, [syntax])
        for index, syntax in enumerate(VECTORS["transfer_syntaxes"])
    ]
    results = accept(receiver, *contexts)
    assert list(results.values()) == [(ACCEPTED, syntax) for syntax in VECTORS["transfer_syntaxes"]]


def test_promiscuous_and_uncompressed_only_take_effect(tmp_path: Path) -> None:
    proposed = [
        Context(1, "1.2.3", ["1.2.3.4"]),
        Context(3, CT_IMAGE_STORAGE, ["1.2.840.10008.1.2.4.90", BIG_ENDIAN]),
        Context(5, CT_IMAGE_STORAGE, [BIG_ENDIAN, EXPLICIT]),
    ]
    with Receiver(tmp_path, OXIDICOM_SCP_PROMISCUOUS="true") as promiscuous:
        results = accept(promiscuous, *proposed)
    assert [result for result, _ in results.values()] == [ACCEPTED, ACCEPTED, ACCEPTED]
    with Receiver(tmp_path, OXIDICOM_SCP_UNCOMPRESSED_ONLY="true") as uncompressed:
        results = accept(uncompressed, *proposed)
    assert results[1][0] == NO_ABSTRACT
    assert results[3][0] == NO_TRANSFER
    assert results[5] == (ACCEPTED, EXPLICIT)


@pytest.mark.parametrize("padding", [b"\0", b" ", b"\0\0", b" \0"])
def test_padded_uids_and_titles_are_stripped(receiver: Receiver, padding: bytes) -> None:
    instance = Instance()
    pad = padding.decode()
    with RawPeer(receiver.port) as peer:
        body = peer.associate(
            [Context(1, CT_IMAGE_STORAGE + pad, [EXPLICIT + pad])],
            calling=padding + b"EFILM" + padding * 3,
        )
        ((result, _),) = context_results(body).values()
        assert result == ACCEPTED
        assert peer.store(instance.sop_instance, instance.encode(EXPLICIT)).status == 0
        peer.release()
    assert receiver.path_of(instance.sop_instance).is_relative_to(
        receiver.root / "SERVICES/PACS/EFILM"
    )


@pytest.mark.parametrize("blank", [b"", bytes(16), b" \0 \0"])
def test_blank_calling_title_is_unknown(receiver: Receiver, blank: bytes) -> None:
    instance = Instance()
    with RawPeer(receiver.port) as peer:
        peer.associate(calling=blank)
        assert peer.store(instance.sop_instance, instance.encode(EXPLICIT)).status == 0
        peer.release()
    assert receiver.path_of(instance.sop_instance).is_relative_to(
        receiver.root / "SERVICES/PACS/UNKNOWN"
    )


def test_maximum_length_missing_or_zero_is_unlimited(receiver: Receiver) -> None:
    for max_length in (None, 0):
        instance = Instance()
        with RawPeer(receiver.port) as peer:
            peer.associate(max_length=max_length)
            peer.echo(5)
            assert peer.store(instance.sop_instance, instance.encode(EXPLICIT)).status == 0
            peer.release()


def test_responses_keep_to_a_small_maximum_length(receiver: Receiver) -> None:
    instance = Instance()
    with RawPeer(receiver.port) as peer:
        peer.associate(max_length=32)
        peer.send(
            store_message(
                1,
                c_store_rq(instance.sop_class, instance.sop_instance, 9),
                instance.encode(EXPLICIT),
            )
        )
        response = peer.response_in_fragments(32)
        assert (response.message_id, response.status) == (9, 0)
        peer.release()


def test_roles_identity_and_window_are_answered(receiver: Receiver) -> None:
    role = struct.pack(">H", len(CT_IMAGE_STORAGE)) + CT_IMAGE_STORAGE.encode()
    identity = b"\x01\x01\x00\x04user\x00\x00"
    with RawPeer(receiver.port) as peer:
        body = peer.associate(
            user_items=item(0x54, role + b"\x01\x01")
            + item(0x58, identity)
            + item(0x53, struct.pack(">HH", 8, 8))
        )
        peer.echo()
        peer.release()
    told = user_items(body)
    assert told[0x54] == role + b"\x01\x00", "we are SCP only"
    assert 0x59 in told
    invoked, performed = struct.unpack(">HH", told[0x53])
    assert 1 <= invoked <= 8
    assert 0 <= performed <= 8


def test_an_identity_that_requests_no_response_gets_none(receiver: Receiver) -> None:
    with RawPeer(receiver.port) as peer:
        body = peer.associate(user_items=item(0x58, b"\x02\x00\x00\x04user\x00\x06secret"))
        peer.release()
    assert 0x59 not in user_items(body)


def test_unknown_items_and_extended_negotiation_are_skipped(receiver: Receiver) -> None:
    extended = struct.pack(">H", len(CT_IMAGE_STORAGE)) + CT_IMAGE_STORAGE.encode() + b"\x02\0\0\0"
    with RawPeer(receiver.port) as peer:
        body = peer.associate(
            other_items=item(0x77, b"whatever"),
            user_items=item(0x56, extended) + item(0x57, extended) + item(0x99, b"x" * 300),
        )
        assert set(context_results(body)) == {1, 3}
        peer.echo()
        peer.release()


@pytest.mark.parametrize("version", [1, 3, 0xFFFF])
def test_only_bit_0_of_the_protocol_version_counts(receiver: Receiver, version: int) -> None:
    with RawPeer(receiver.port) as peer:
        peer.send(associate_rq(ECHO, version=version))
        peer.expect(AC)
        peer.release()
