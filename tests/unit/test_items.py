"""The items of A-ASSOCIATE, by hand-made bytes and against pynetdicom."""

from __future__ import annotations

from struct import pack
from typing import Any

import pytest
from pynetdicom import build_context, build_role
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    AsynchronousOperationsWindowNegotiation,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SOPClassCommonExtendedNegotiation,
    SOPClassExtendedNegotiation,
    UserIdentityNegotiation,
)

from oxidicom.constants import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from oxidicom.errors import PeerError
from oxidicom.wire.items import (
    AssociateAnswer,
    ContextAnswer,
    PresentationContext,
    RoleSelection,
    UserIdentity,
    decode_associate_rq,
    encode_associate_ac,
)

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"


def item(kind: int, value: bytes = b"") -> bytes:
    return pack(">BxH", kind, len(value)) + value


def context(context_id: int, abstract: str = CT, *transfers: str) -> bytes:
    syntaxes = b"".join(item(0x40, uid.encode()) for uid in transfers or (IMPLICIT,))
    return item(0x20, bytes((context_id, 0, 0, 0)) + item(0x30, abstract.encode()) + syntaxes)


def role(uid: str, scu: int, scp: int) -> bytes:
    return item(0x54, pack(">H", len(uid)) + uid.encode() + bytes((scu, scp)))


def request(
    *items: bytes,
    called: bytes = b"CHRIS".ljust(16),
    calling: bytes = b"MODALITY".ljust(16),
    version: int = 1,
) -> bytes:
    assert len(called) == len(calling) == 16
    fixed = pack(">HH", version, 0) + called + calling + bytes(range(32))
    return fixed + b"".join((item(0x10, APPLICATION_CONTEXT.encode()), *items))


def user(*items: bytes) -> bytes:
    return item(0x50, b"".join(items))


# ---- decode --------------------------------------------------------------------------------


def test_a_whole_request() -> None:
    decoded = decode_associate_rq(
        request(
            context(1, CT, EXPLICIT, IMPLICIT),
            context(255, MR),
            user(
                item(0x51, pack(">I", 16384)),
                item(0x52, b"1.2.276.0.7230010.3.0.3.6.7"),
                item(0x53, pack(">HH", 5, 3)),
                role(CT, 1, 0),
                item(0x55, b"OFFIS_DCMTK_367"),
                item(0x58, b"\x02\x01\x00\x04user\x00\x06secret"),
            ),
        )
    )
    assert decoded.protocol_version == 1
    assert decoded.called_ae_title == "CHRIS"
    assert decoded.calling_ae_title == "MODALITY"
    assert decoded.application_context == APPLICATION_CONTEXT
    assert decoded.presentation_contexts == (
        PresentationContext(1, CT, (EXPLICIT, IMPLICIT)),
        PresentationContext(255, MR, (IMPLICIT,)),
    )
    assert decoded.user.max_pdu_length == 16384
    assert decoded.user.implementation_class_uid == "1.2.276.0.7230010.3.0.3.6.7"
    assert decoded.user.implementation_version_name == "OFFIS_DCMTK_367"
    assert decoded.user.operations == (5, 3)
    assert decoded.user.roles == (RoleSelection(CT, 1, 0),)
    assert decoded.user.identity == UserIdentity(2, True)


def test_a_user_identitys_secrets_are_not_kept() -> None:
    decoded = decode_associate_rq(request(user(item(0x58, b"\x02\x00\x00\x04user\x00\x06secret"))))
    assert decoded.user.identity == UserIdentity(2, False)
    assert "secret" not in repr(decoded)
    assert "user'" not in repr(decoded)


@pytest.mark.parametrize(
    ("field", "title"),
    [
        (b"STORESCU        ", "STORESCU"),
        (b" \0 STORE SCU\0 \0 ", "STORE SCU"),
        (b"STORESCU\0\0\0\0\0\0\0\0", "STORESCU"),
        (b"\tM\xfcller\xa0        ", "Müller"),
        (b" " * 16, "UNKNOWN"),
        (b"\0" * 16, "UNKNOWN"),
    ],
)
def test_calling_ae_title(field: bytes, title: str) -> None:
    assert decode_associate_rq(request(calling=field)).calling_ae_title == title


def test_a_blank_called_ae_title_stays_blank() -> None:
    assert decode_associate_rq(request(called=b" " * 16)).called_ae_title == ""


def test_uids_lose_padding_on_either_side() -> None:
    body = request(context(1, f" \0{CT}\0 ", f"{EXPLICIT}\0", f" {IMPLICIT} "))
    assert decode_associate_rq(body).presentation_contexts == (
        PresentationContext(1, CT, (EXPLICIT, IMPLICIT)),
    )
    padded = request(item(0x10, f" {APPLICATION_CONTEXT}\0".encode()))
    assert decode_associate_rq(padded).application_context == APPLICATION_CONTEXT


@pytest.mark.parametrize("items", [(), (user(),), (user(item(0x51, bytes(4))),)])
def test_a_missing_maximum_length_is_unlimited_as_zero_is(items: tuple[bytes, ...]) -> None:
    assert decode_associate_rq(request(*items)).user.max_pdu_length == 0


def test_no_presentation_context_is_no_error() -> None:
    assert decode_associate_rq(request()).presentation_contexts == ()


def test_items_in_any_order() -> None:
    body = request(user(item(0x51, pack(">I", 9))), context(3), item(0x10, b"1.2.3"))
    decoded = decode_associate_rq(body)
    assert decoded.application_context == "1.2.3"
    assert decoded.user.max_pdu_length == 9
    assert [c.id for c in decoded.presentation_contexts] == [3]


def test_unknown_items_and_extended_negotiation_are_skipped() -> None:
    inner = bytes((1, 0, 0, 0)) + item(0x77, b"?") + item(0x30, CT.encode())
    body = request(
        item(0x99, b"whatever"),
        item(0x20, inner + item(0x40, IMPLICIT.encode())),
        user(item(0x56, b"x"), item(0x57, b"yz"), item(0xFE), item(0x51, pack(">I", 77))),
        item(0x00),
    )
    decoded = decode_associate_rq(body)
    assert decoded.presentation_contexts == (PresentationContext(1, CT, (IMPLICIT,)),)
    assert decoded.user.max_pdu_length == 77


def test_a_context_without_syntaxes_is_left_to_negotiation() -> None:
    decoded = decode_associate_rq(request(item(0x20, bytes((1, 0, 0, 0)))))
    assert decoded.presentation_contexts == (PresentationContext(1, "", ()),)


def test_of_another_protocol_version_only_the_fixed_fields_are_read() -> None:
    decoded = decode_associate_rq(request(version=2)[:68] + b"items of another kind")
    assert decoded.protocol_version == 2
    assert decoded.calling_ae_title == "MODALITY"
    assert decoded.presentation_contexts == ()


@pytest.mark.parametrize("version", [1, 3, 0xFFFF])
def test_further_bits_of_the_protocol_version_do_not_matter(version: int) -> None:
    assert decode_associate_rq(request(context(1), version=version)).presentation_contexts


def test_a_context_too_long_to_remember_is_decoded_alike() -> None:
    transfers = [f"1.2.3.{i}" for i in range(500)]
    decoded = decode_associate_rq(request(context(1, CT, *transfers)))
    assert decoded.presentation_contexts == (PresentationContext(1, CT, tuple(transfers)),)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        request()[:67],
        request() + b"\x20\x00\x00",  # a header cut short
        request() + b"\x20\x00\x00\x04\x01\x00\x00",  # past the end of the PDU
        request(item(0x20, bytes((1, 0, 0)))),  # shorter than its fixed fields
        request(item(0x20, bytes((1, 0, 0, 0)) + b"\x30\x00\x00\x05abcd")),  # past its parent
        request(context(0)),
        request(context(2)),
        request(context(1), context(3), context(1)),
        request(user(item(0x51, b"\0\0\1"))),
        request(user(item(0x51, b"\0\0\0\0\1"))),
        request(user(item(0x53, b"\0\1\0"))),
        request(user(item(0x54, b""))),
        request(user(item(0x54, b"\0\0\1"))),
        request(user(item(0x54, b"\0\x05abcd\1\0"))),
        request(user(item(0x58, b"\x01\x00\x00"))),
        request(user(item(0x58, b"\x01\x00\x00\x09user\0\0"))),
        request(user(item(0x58, b"\x01\x00\x00\x04user\0\1"))),
        request(user(b"\x51\x00")),
        request(user(), user()),
        request(user(*(role(f"1.2.{i}", 1, 0) for i in range(129)))),
    ],
)
def test_what_does_not_fit_is_the_peers_fault(body: bytes) -> None:
    with pytest.raises(PeerError) as caught:
        decode_associate_rq(body)
    assert (caught.value.source, caught.value.reason) == (2, 6)


def test_a_request_cut_anywhere_is_decoded_or_refused() -> None:
    body = request(
        context(1, CT, EXPLICIT, IMPLICIT),
        user(
            item(0x51, pack(">I", 16384)),
            role(CT, 1, 0),
            item(0x58, b"\x02\x01\x00\x04user\x00\x06secret"),
        ),
    )
    decoded = 0
    for length in range(len(body)):
        try:
            decode_associate_rq(body[:length])
        except PeerError as error:
            assert error.reason == 6  # noqa: PT017
        else:
            decoded += 1
    assert decoded == 3  # after the fixed fields and after each whole item but the last


# ---- against pynetdicom --------------------------------------------------------------------


def pynetdicom_request() -> A_ASSOCIATE:
    primitive = A_ASSOCIATE()
    primitive.application_context_name = APPLICATION_CONTEXT
    primitive.calling_ae_title = "ELSCINT1"
    primitive.called_ae_title = "ChRIS"
    contexts = []
    for i in range(128):
        proposed = build_context(
            f"1.2.840.10008.5.1.4.1.1.{i + 1}", [EXPLICIT, IMPLICIT][: 1 + i % 2]
        )
        proposed.context_id = 2 * i + 1
        contexts.append(proposed)
    primitive.presentation_context_definition_list = contexts
    maximum = MaximumLengthNotification()
    maximum.maximum_length_received = 28672
    class_uid = ImplementationClassUIDNotification()
    class_uid.implementation_class_uid = "1.2.826.0.1.3680043.9.3811.3.0"
    version = ImplementationVersionNameNotification()
    version.implementation_version_name = "PYNETDICOM_300"
    window = AsynchronousOperationsWindowNegotiation()
    window.maximum_number_operations_invoked = 8
    window.maximum_number_operations_performed = 2
    extended = SOPClassExtendedNegotiation()
    extended.sop_class_uid = CT
    extended.service_class_application_information = b"\2\0\3\0\1\0"
    common = SOPClassCommonExtendedNegotiation()
    common.sop_class_uid = MR
    common.service_class_uid = "1.2.840.10008.4.2"
    identity = UserIdentityNegotiation()
    identity.user_identity_type = 2
    identity.primary_field = b"someone"
    identity.secondary_field = b"something"
    identity.positive_response_requested = True
    primitive.user_information = [
        maximum,
        class_uid,
        version,
        window,
        build_role(CT, scu_role=True, scp_role=True),
        extended,
        common,
        identity,
    ]
    return primitive


def encoded_by_pynetdicom(primitive: A_ASSOCIATE) -> bytes:
    pdu = A_ASSOCIATE_RQ()
    pdu.from_primitive(primitive)
    encoded: bytes = pdu.encode()
    return encoded


def test_a_request_that_pynetdicom_encodes() -> None:
    decoded = decode_associate_rq(encoded_by_pynetdicom(pynetdicom_request())[6:])
    assert decoded.called_ae_title == "ChRIS"
    assert decoded.calling_ae_title == "ELSCINT1"
    assert decoded.application_context == APPLICATION_CONTEXT
    assert decoded.presentation_contexts == tuple(
        PresentationContext(
            2 * i + 1, f"1.2.840.10008.5.1.4.1.1.{i + 1}", (EXPLICIT, IMPLICIT)[: 1 + i % 2]
        )
        for i in range(128)
    )
    assert decoded.user.max_pdu_length == 28672
    assert decoded.user.implementation_class_uid == "1.2.826.0.1.3680043.9.3811.3.0"
    assert decoded.user.implementation_version_name == "PYNETDICOM_300"
    assert decoded.user.operations == (8, 2)
    assert decoded.user.roles == (RoleSelection(CT, 1, 1),)
    assert decoded.user.identity == UserIdentity(2, True)


def decoded_by_pynetdicom(encoded: bytes) -> A_ASSOCIATE_AC:
    pdu: Any = A_ASSOCIATE_AC()
    pdu.decode(encoded)
    assert pdu.pdu_length == len(encoded) - 6
    reencoded = pdu.encode()
    assert len(reencoded) == len(encoded)
    assert reencoded[74:] == encoded[74:]  # before that it writes its own reserved bytes
    return pdu


def test_an_answer_that_pynetdicom_decodes() -> None:
    asked = decode_associate_rq(encoded_by_pynetdicom(pynetdicom_request())[6:])
    answer = AssociateAnswer(
        contexts=(ContextAnswer(1, 0, EXPLICIT), ContextAnswer(3, 3), ContextAnswer(5, 4)),
        max_pdu_length=131072,
        operations=(1, 1),
        roles=(RoleSelection(CT, 1, 0),),
        user_identity_response=True,
    )
    encoded = encode_associate_ac(asked, answer)
    pdu: Any = decoded_by_pynetdicom(encoded)
    assert pdu.protocol_version == 1
    assert pdu.application_context_name == APPLICATION_CONTEXT
    assert [(c.context_id, c.result, str(c.transfer_syntax)) for c in pdu.presentation_context] == [
        (1, 0, EXPLICIT),
        (3, 3, IMPLICIT),
        (5, 4, IMPLICIT),
    ]
    assert pdu.user_information.maximum_length == 131072
    assert pdu.user_information.implementation_class_uid == IMPLEMENTATION_CLASS_UID
    assert pdu.user_information.implementation_version_name == IMPLEMENTATION_VERSION_NAME
    window = pdu.user_information.async_ops_window
    assert (
        window.maximum_number_operations_invoked,
        window.maximum_number_operations_performed,
    ) == (1, 1)
    answered = pdu.user_information.role_selection[CT]
    assert (answered.scu_role, answered.scp_role) == (1, 0)
    assert pdu.user_information.user_identity.server_response == b""


def test_an_answer_holds_only_what_was_asked_for() -> None:
    asked = decode_associate_rq(request(context(1)))
    pdu: Any = decoded_by_pynetdicom(encode_associate_ac(asked, AssociateAnswer((), 0)))
    assert pdu.presentation_context == []
    assert pdu.user_information.maximum_length == 0
    kinds = [sub_item.item_type for sub_item in pdu.user_information.user_data]
    assert kinds == [0x51, 0x52, 0x55]


def test_ae_titles_and_reserved_bytes_are_echoed_as_they_came() -> None:
    body = request(called=b"\0 \xe4 called \0xyz ", calling=b"\0" * 16)
    encoded = encode_associate_ac(decode_associate_rq(body), AssociateAnswer((), 16384))
    assert encoded[:1] == b"\x02"
    assert encoded[6:10] == b"\0\1\0\0"
    assert encoded[10:74] == body[4:68]
