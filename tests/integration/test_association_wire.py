"""Association rules over a real port (PS3.8; decisions 8 to 16)."""

from __future__ import annotations

import socket
import struct
import time
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
    MR_IMAGE_STORAGE,
    P_DATA_TF,
    RELEASE_RP,
    RQ,
    VERIFICATION,
    Context,
    RawPeer,
    abort,
    associate_rq,
    c_echo_rq,
    c_store_rq,
    context_results,
    item,
    items,
    p_data,
    pdu,
    pdv,
    release_rq,
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
    """One peer's trouble is its own: after each test here the next peer is served."""
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


# ---- what is accepted -------------------------------------------------------------------------


def test_acceptance_echoes_titles_and_tells_who_we_are(receiver: Receiver) -> None:
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


def test_first_acceptable_transfer_syntax_of_the_requester_wins(receiver: Receiver) -> None:
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


def test_what_is_unknown_is_rejected_context_by_context(receiver: Receiver) -> None:
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


def test_identity_without_a_wish_for_a_response_gets_none(receiver: Receiver) -> None:
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


# ---- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize("version", [0, 2, 0xFFFE])
def test_protocol_version_without_bit_0_is_rejected(receiver: Receiver, version: int) -> None:
    with RawPeer(receiver.port) as peer:
        peer.send(associate_rq(ECHO, version=version))
        peer.expect_reject(1, 2, 2)


def test_other_application_context_is_rejected(receiver: Receiver) -> None:
    with RawPeer(receiver.port) as peer:
        peer.send(associate_rq(ECHO, application_context="1.2.840.10008.3.1.1.2"))
        peer.expect_reject(1, 1, 2)


@pytest.mark.parametrize("pdu_type", [AC, P_DATA_TF, RELEASE_RP, 3])
def test_wrong_first_pdu_is_unexpected(receiver: Receiver, pdu_type: int) -> None:
    with RawPeer(receiver.port) as peer:
        peer.send(pdu(pdu_type, bytes(4)))
        peer.expect_abort(2, 2)


def test_release_before_association_is_answered(receiver: Receiver) -> None:
    with RawPeer(receiver.port) as peer:
        peer.send(release_rq())
        peer.expect(RELEASE_RP)
        peer.finish_sending()
        peer.expect_close()


def test_abort_before_association_just_closes(receiver: Receiver) -> None:
    with RawPeer(receiver.port) as peer:
        peer.send(abort())
        peer.expect_close()


@pytest.mark.parametrize("associated", [False, True])
def test_unknown_pdu_type_is_refused_at_its_header(receiver: Receiver, associated: bool) -> None:
    with RawPeer(receiver.port) as peer:
        if associated:
            peer.associate(ECHO)
        peer.send(pdu(0x2A, b"", length=0xFFFFFFFF))
        peer.expect_abort(2, 1)


@pytest.mark.parametrize("length", [256 * 1024 + 1, 0xFFFFFFFF])
def test_overlong_request_is_refused_at_its_header(receiver: Receiver, length: int) -> None:
    with RawPeer(receiver.port) as peer:
        peer.send(pdu(RQ, b"", length=length))
        peer.expect_abort(2, 6)


def test_request_of_256_kib_is_accepted(receiver: Receiver) -> None:
    # As unknown items, each of which may have 64 KiB.
    base = len(associate_rq(ECHO)) - 6
    rest = 256 * 1024 - base
    fillers = []
    while rest:
        size = min(rest, 60000)
        fillers.append(item(0x77, bytes(size - 4)))
        rest -= size
    with RawPeer(receiver.port) as peer:
        peer.associate(ECHO, other_items=b"".join(fillers))
        peer.echo()
        peer.release()


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(bytes(67), id="short of its fixed fields"),
        pytest.param(b"\0\1" + bytes(66) + b"\x10\0\xff\xff1.2", id="item longer than the PDU"),
        pytest.param(b"\0\1" + bytes(66) + b"\x10\0", id="item header cut"),
        pytest.param(b"\0\1" + bytes(66) + b"\x20\0\0\2\1\0", id="context item too short"),
        pytest.param(associate_rq([*ECHO, *ECHO])[6:], id="context id twice"),
        pytest.param(associate_rq([Context(2, VERIFICATION, [IMPLICIT])])[6:], id="even id"),
    ],
)
def test_malformed_request_is_aborted(receiver: Receiver, body: bytes) -> None:
    with RawPeer(receiver.port) as peer:
        peer.send(pdu(RQ, body))
        peer.expect_abort(2, 6)


def test_answer_survives_what_the_peer_still_sends(receiver: Receiver) -> None:
    # Closing with unread bytes would reset the connection and destroy the A-ABORT.
    with RawPeer(receiver.port) as peer:
        peer.send(pdu(0x2A, b"", length=100_000_000))
        try:
            for _ in range(50):
                peer.send(bytes(100_000))
        except BrokenPipeError:
            pytest.fail("reset while still sending")
        peer.expect_abort(2, 1)


@pytest.mark.parametrize(
    "unexpected",
    [
        pytest.param(associate_rq(ECHO), id="second A-ASSOCIATE-RQ"),
        pytest.param(pdu(AC, bytes(68)), id="A-ASSOCIATE-AC"),
        pytest.param(pdu(RELEASE_RP, bytes(4)), id="A-RELEASE-RP"),
    ],
)
def test_unexpected_pdu_in_an_association(receiver: Receiver, unexpected: bytes) -> None:
    with RawPeer(receiver.port) as peer:
        peer.associate(ECHO)
        peer.send(unexpected)
        peer.expect_abort(2, 2)


def test_rejected_and_unknown_contexts_are_not_usable(receiver: Receiver) -> None:
    contexts = [Context(1, "1.2.3", [IMPLICIT]), *ECHO]
    for context_id in (1, 5, 2, 0):
        with RawPeer(receiver.port) as peer:
            peer.associate(contexts)
            peer.send(p_data(pdv(context_id, c_echo_rq(), command=True, last=True)))
            peer.expect_abort(2, 6)


def test_limit_of_associations(tmp_path: Path) -> None:
    with (
        Receiver(tmp_path, OXIDICOM_LISTENER_THREADS="2") as receiver,
        RawPeer(receiver.port),  # bare connections do not count
        RawPeer(receiver.port),
        RawPeer(receiver.port) as first,
        RawPeer(receiver.port) as second,
    ):
        first.associate(ECHO)
        second.associate(ECHO)
        with RawPeer(receiver.port) as third:
            third.send(associate_rq(ECHO))
            third.expect_reject(2, 3, 2)
        first.echo()
        second.release()
        with RawPeer(receiver.port) as third:
            third.associate(ECHO)
            third.echo()
            third.release()
        first.release()


# ---- time limits and connections that never associate --------------------------------------------


def test_time_limits(tmp_path: Path) -> None:
    with Receiver(
        tmp_path, OXIDICOM_ARTIM_TIMEOUT="1s", OXIDICOM_IDLE_TIMEOUT="1500ms"
    ) as receiver:
        started = time.monotonic()
        with (
            RawPeer(receiver.port) as bare,
            RawPeer(receiver.port) as partial,
            RawPeer(receiver.port) as idle,
            RawPeer(receiver.port) as answered,
        ):
            partial.send(associate_rq(ECHO)[:40])
            idle.associate(ECHO)
            answered.send(pdu(RELEASE_RP, bytes(4)))
            answered.expect(7)  # and keeps the connection open: ARTIM closes it
            bare.expect_close()
            assert 0.8 < time.monotonic() - started < 2
            partial.expect_close()
            assert time.monotonic() - started < 2
            body = idle.expect(7)
            assert body[2] == 2
            assert 1.3 < time.monotonic() - started < 3
            idle.expect_close()
        # Activity between messages starts the idle time anew.
        with RawPeer(receiver.port) as active:
            active.associate(ECHO)
            for message_id in range(1, 5):
                time.sleep(0.5)
                active.echo(message_id)
            active.release()


def test_two_thousand_bare_connections_cost_nothing(receiver: Receiver) -> None:
    with RawPeer(receiver.port) as peer:
        peer.associate(ECHO)
        peer.echo()
        lines = len(receiver.lines)
        for _ in range(2000):
            socket.create_connection(("127.0.0.1", receiver.port), 10).close()
        peer.echo(2)
        # Earlier associations may still be told of; none of the 2,000 is, above debug (8).
        assert len(receiver.lines) - lines < 5
        peer.release()


def test_idle_connections_do_not_delay_others(receiver: Receiver) -> None:
    held = [RawPeer(receiver.port) for _ in range(200)]
    try:
        with RawPeer(receiver.port) as peer:
            peer.associate(ECHO)
            started = time.monotonic()
            peer.echo()
            assert time.monotonic() - started < 0.1
            peer.release()
    finally:
        for connection in held:
            connection.close()


# ---- optional checks (decision 15) -----------------------------------------------------------


def test_called_title_checked(tmp_path: Path) -> None:
    with Receiver(
        tmp_path, OXIDICOM_SCP_AET="RIGHT", OXIDICOM_SCP_CHECK_CALLED_AET="true"
    ) as receiver:
        with RawPeer(receiver.port) as peer:
            peer.send(associate_rq(ECHO, called=b"WRONG"))
            peer.expect_reject(1, 1, 7)
        with RawPeer(receiver.port) as peer:
            peer.associate(ECHO, called=b"RIGHT")
            peer.release()


def test_calling_titles_allowed(tmp_path: Path) -> None:
    with Receiver(tmp_path, OXIDICOM_SCP_ALLOWED_CALLING_AETS="CT1,MR 2") as receiver:
        with RawPeer(receiver.port) as peer:
            peer.send(associate_rq(ECHO, calling=b"CT2"))
            peer.expect_reject(1, 1, 3)
        for title in (b"CT1", b"MR 2", b" CT1"):
            with RawPeer(receiver.port) as peer:
                peer.associate(ECHO, calling=title)
                peer.release()


def test_networks_allowed(tmp_path: Path) -> None:
    with (
        Receiver(tmp_path, OXIDICOM_ALLOWED_NETWORKS="10.0.0.0/8, ::1/128") as receiver,
        RawPeer(receiver.port) as peer,
    ):
        peer.send(associate_rq(ECHO))
        peer.expect_reject(1, 1, 3)
    with (
        Receiver(tmp_path, OXIDICOM_ALLOWED_NETWORKS="127.0.0.0/8") as receiver,
        RawPeer(receiver.port) as peer,
    ):
        peer.associate(ECHO)
        peer.release()


def test_maximum_length_setting_reaches_the_wire(tmp_path: Path) -> None:
    with Receiver(
        tmp_path, OXIDICOM_SCP_MAX_PDU_LENGTH="32 KiB", OXIDICOM_SCP_STRICT="1"
    ) as strict:
        instance = Instance(pixels=100_000)
        with RawPeer(strict.port) as peer:
            peer.associate()
            assert peer.peer_max_length == 32768
            assert peer.store(instance.sop_instance, instance.encode(EXPLICIT)).status == 0
            peer.send(pdu(P_DATA_TF, b"", length=32769))
            peer.expect_abort(2, 6)
    with Receiver(tmp_path, OXIDICOM_SCP_MAX_PDU_LENGTH="16384") as lenient:
        instance = Instance(pixels=300_000, sop_class=MR_IMAGE_STORAGE)
        with RawPeer(lenient.port) as peer:
            peer.associate([Context(1, MR_IMAGE_STORAGE, [EXPLICIT])])
            peer.peer_max_length = 0  # one PDU far longer than was advertised
            status = peer.store(
                instance.sop_instance, instance.encode(EXPLICIT), sop_class=MR_IMAGE_STORAGE
            ).status
            assert status == 0
            peer.release()
        assert lenient.data_set_of(instance.sop_instance) == instance.encode(EXPLICIT)
    with (
        Receiver(tmp_path, OXIDICOM_SCP_MAX_PDU_LENGTH="0") as unlimited,
        RawPeer(unlimited.port) as peer,
    ):
        peer.associate()
        assert peer.peer_max_length == 0
        peer.release()


def test_one_port_for_both_families(tmp_path: Path) -> None:
    with Receiver(tmp_path, OXIDICOM_LISTENER_HOST="::") as receiver:
        for host in ("127.0.0.1", "::1"):
            with RawPeer(receiver.port, host=host) as peer:
                peer.associate(ECHO)
                peer.echo()
                peer.release()
