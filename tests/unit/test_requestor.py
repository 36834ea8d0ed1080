"""pynetdicom and our own acceptor read what the requestor writes, and the other way round."""

from __future__ import annotations

import struct

import pytest
from pynetdicom.pdu import A_ASSOCIATE_RJ, A_ASSOCIATE_RQ
from pynetdicom.sop_class import CTImageStorage

from oxidicom.constants import STUDY_ROOT_FIND, VERIFICATION, CommandField
from oxidicom.errors import PeerError
from oxidicom.wire.dimse import (
    Command,
    decode_command,
    encode_echo_response,
    encode_store_response,
)
from oxidicom.wire.items import (
    AssociateAnswer,
    ContextAnswer,
    decode_associate_rq,
    encode_associate_ac,
)
from oxidicom.wire.requestor import (
    AcceptedContext,
    Context,
    Response,
    abort_text,
    decode_associate_ac,
    decode_p_data,
    decode_response,
    encode_associate_rq,
    encode_echo_request,
    encode_find_request,
    encode_store_request,
    is_pending,
    is_stored,
    rejection_text,
    status_text,
)
from tests.support.raw_peer import EXPLICIT, IMPLICIT, pdv

CONTEXTS = [
    Context(VERIFICATION, (IMPLICIT,)),
    Context(CTImageStorage, (EXPLICIT,)),
    Context(STUDY_ROOT_FIND, (EXPLICIT, IMPLICIT)),
]


def test_a_request_is_decoded_by_pynetdicom_and_by_our_acceptor() -> None:
    request = encode_associate_rq("CALLED", "CALLING", CONTEXTS, 16384)
    theirs = A_ASSOCIATE_RQ()
    theirs.decode(request)
    assert theirs.called_ae_title.strip() == "CALLED"
    assert theirs.calling_ae_title.strip() == "CALLING"
    assert [
        (item.context_id, item.abstract_syntax, list(item.transfer_syntax))
        for item in theirs.presentation_context
    ] == [
        (1, VERIFICATION, [IMPLICIT]),
        (3, CTImageStorage, [EXPLICIT]),
        (5, STUDY_ROOT_FIND, [EXPLICIT, IMPLICIT]),
    ]
    assert theirs.user_information.maximum_length == 16384
    ours = decode_associate_rq(request[6:])
    assert (ours.called_ae_title, ours.calling_ae_title) == ("CALLED", "CALLING")
    assert [context.id for context in ours.presentation_contexts] == [1, 3, 5]


def answer(*contexts: ContextAnswer, max_pdu_length: int = 65536) -> bytes:
    request = decode_associate_rq(encode_associate_rq("A", "B", CONTEXTS, 16384)[6:])
    return encode_associate_ac(request, AssociateAnswer(contexts, max_pdu_length))[6:]


def test_an_acceptance_gives_the_accepted_contexts_with_their_transfer_syntaxes() -> None:
    body = answer(
        ContextAnswer(1, 0, IMPLICIT), ContextAnswer(3, 4, EXPLICIT), ContextAnswer(5, 0, IMPLICIT)
    )
    acceptance = decode_associate_ac(body, CONTEXTS)
    assert acceptance.accepted == {
        CONTEXTS[0]: AcceptedContext(1, IMPLICIT),
        CONTEXTS[2]: AcceptedContext(5, IMPLICIT),
    }
    assert acceptance.max_pdu_length == 65536


@pytest.mark.parametrize(
    "body",
    [
        answer(ContextAnswer(7, 0, IMPLICIT)),
        answer(ContextAnswer(1, 0, EXPLICIT)),
        answer(ContextAnswer(1, 0, IMPLICIT))[:-1],
        answer(ContextAnswer(1, 0, IMPLICIT)) + b"\x21",
    ],
    ids=["id never proposed", "other transfer syntax", "cut", "with trailing bytes"],
)
def test_an_acceptance_of_what_was_not_proposed_or_malformed_is_the_peers_fault(
    body: bytes,
) -> None:
    with pytest.raises(PeerError):
        decode_associate_ac(body, CONTEXTS)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ((1, 1, 7), "called AE title not recognized (permanent, by the service user)"),
        ((1, 1, 3), "calling AE title not recognized (permanent, by the service user)"),
        ((2, 3, 2), "local limit exceeded (transient, by the service provider (presentation))"),
        ((1, 2, 2), "protocol version not supported (permanent, by the service provider (ACSE))"),
        ((9, 9, 9), "reason 9 (result 9, by the source 9)"),
    ],
)
def test_rejections_are_described_in_the_words_of_the_standard(
    code: tuple[int, int, int], text: str
) -> None:
    assert rejection_text(*code) == text


@pytest.mark.parametrize("source", [1, 2, 3])
@pytest.mark.parametrize("reason", [1, 2, 3, 7])
def test_pynetdicom_describes_rejections_in_the_same_words(source: int, reason: int) -> None:
    theirs = A_ASSOCIATE_RJ()
    theirs.decode(bytes((3, 0, 0, 0, 0, 4, 0, 1, source, reason)))
    try:
        words = theirs.reason_str
    except ValueError:  # not a reason of that source
        return
    if words != "No reason given" and "eserved" not in words:
        ours = rejection_text(1, source, reason).partition(" (")[0]
        assert ours.lower().split()[:2] == words.lower().replace("-", " ").split()[:2]


def test_aborts_are_described_in_the_words_of_the_standard() -> None:
    assert abort_text(0, 0) == "by its service user"
    assert abort_text(2, 2) == "by its service provider (unexpected pdu)"
    assert abort_text(2, 9) == "by its service provider (reason 9)"


def test_requests_are_decoded_by_our_acceptor() -> None:
    assert decode_command(encode_find_request(9, STUDY_ROOT_FIND)) == Command(
        CommandField.C_FIND_RQ, 9, 0, STUDY_ROOT_FIND, "", True
    )
    assert decode_command(encode_echo_request(7)) == Command(
        CommandField.C_ECHO_RQ, 7, 0, VERIFICATION, "", False
    )
    assert decode_command(encode_store_request(65535, CTImageStorage, "1.2.3")) == Command(
        CommandField.C_STORE_RQ, 65535, 0, CTImageStorage, "1.2.3", True
    )


def test_responses_of_our_acceptor_are_decoded() -> None:
    assert decode_response(encode_echo_response(3)) == Response(0x8030, 3, 0, "")
    refusal = encode_store_response(5, CTImageStorage, "1.2.3", 0xA700, "no space left")
    assert decode_response(refusal) == Response(0x8001, 5, 0xA700, "no space left")


@pytest.mark.parametrize(("data_set_type", "has_data_set"), [(0x0101, False), (1, True), (0, True)])
def test_a_response_says_whether_a_data_set_follows(data_set_type: int, has_data_set: bool) -> None:
    response = encode_echo_response(3)
    changed = response.replace(
        struct.pack("<HHIH", 0, 0x0800, 2, 0x0101),
        struct.pack("<HHIH", 0, 0x0800, 2, data_set_type),
    )
    assert decode_response(changed).has_data_set is has_data_set


def test_every_pdv_of_a_p_data_pdu_is_decoded() -> None:
    pdvs = [pdv(1, b"command", command=True, last=True), pdv(1, b"data", command=False, last=False)]
    assert decode_p_data(b"".join(pdvs)) == [(3, b"command"), (0, b"data")]
    assert decode_p_data(b"") == []


@pytest.mark.parametrize("body", [b"\0", bytes(4), b"\0\0\0\1\1", b"\0\0\0\3\1\3"])
def test_a_pdv_that_does_not_fit_into_its_pdu_is_the_peers_fault(body: bytes) -> None:
    with pytest.raises(PeerError):
        decode_p_data(body)


def test_only_the_two_pending_statuses_announce_more_responses() -> None:
    assert [is_pending(status) for status in (0xFF00, 0xFF01, 0x0000, 0xB000)] == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    "command",
    [
        encode_echo_response(3)[:-1],
        encode_echo_response(3) + bytes(4),
        encode_echo_request(3),
        b"",
    ],
    ids=["cut", "with trailing bytes", "a request", "empty"],
)
def test_a_malformed_response_is_the_peers_fault(command: bytes) -> None:
    with pytest.raises(PeerError):
        decode_response(command)


@pytest.mark.parametrize(
    ("status", "text", "stored"),
    [
        (0x0000, "0000H success", True),
        (0xB000, "B000H warning: coercion of data elements", True),
        (0xB123, "B123H warning", True),
        (0xA702, "A702H out of resources", False),
        (0xA900, "A900H data set does not match SOP class", False),
        (0xC123, "C123H cannot understand", False),
        (0x0122, "0122H SOP class not supported", False),
        (0x0999, "0999H failure", False),
        (0xFE00, "FE00H cancelled", False),
    ],
)
def test_statuses_are_described_and_tell_whether_the_instance_is_stored(
    status: int, text: str, stored: bool
) -> None:
    assert status_text(status) == text
    assert is_stored(status) is stored
