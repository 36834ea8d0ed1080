"""Which parts of an association request are accepted, and how the rest is refused."""

from __future__ import annotations

import pytest

from oxidicom.constants import APPLICATION_CONTEXT, VERIFICATION, Encoding
from oxidicom.errors import AssociationRejectedError
from oxidicom.wire.items import (
    AssociateRequest,
    ContextAnswer,
    PresentationContext,
    RoleSelection,
    UserIdentity,
    UserInformation,
    encode_associate_ac,
)
from oxidicom.wire.negotiation import AcceptedContext, Policy, negotiate

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
PRIVATE = "1.2.3.4.5"
IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
JPEG = "1.2.840.10008.1.2.4.70"
XML = "1.2.840.10008.1.2.6.2"
NOTHING_SAID = UserInformation()


def request(
    *contexts: tuple[str, tuple[str, ...]],
    user: UserInformation = NOTHING_SAID,
    version: int = 1,
    application_context: str = APPLICATION_CONTEXT,
) -> AssociateRequest:
    return AssociateRequest(
        protocol_version=version,
        called_ae_title="CHRIS",
        calling_ae_title="MODALITY",
        echo=bytes(64),
        application_context=application_context,
        presentation_contexts=tuple(
            PresentationContext(2 * i + 1, abstract, transfers)
            for i, (abstract, transfers) in enumerate(contexts)
        ),
        user=user,
    )


# ---- contexts ------------------------------------------------------------------------------


def test_each_context_is_answered_in_order() -> None:
    asked = request(
        (CT, (EXPLICIT,)), (PRIVATE, (EXPLICIT,)), (MR, (XML,)), (VERIFICATION, (IMPLICIT,))
    )
    negotiated = negotiate(asked, Policy())
    assert negotiated.contexts == {
        1: AcceptedContext(1, CT, EXPLICIT, Encoding.EXPLICIT_LE),
        7: AcceptedContext(7, VERIFICATION, IMPLICIT, Encoding.IMPLICIT_LE),
    }
    assert negotiated.answer.contexts == (
        ContextAnswer(1, 0, EXPLICIT),
        ContextAnswer(3, 3, IMPLICIT),
        ContextAnswer(5, 4, IMPLICIT),
        ContextAnswer(7, 0, IMPLICIT),
    )


@pytest.mark.parametrize(
    ("proposed", "accepted"),
    [
        ((JPEG, EXPLICIT, IMPLICIT), JPEG),
        ((IMPLICIT, EXPLICIT), IMPLICIT),
        ((BIG_ENDIAN, IMPLICIT), BIG_ENDIAN),
        ((XML, PRIVATE, EXPLICIT), EXPLICIT),
    ],
)
def test_the_first_acceptable_transfer_syntax_in_the_requestors_order(
    proposed: tuple[str, ...], accepted: str
) -> None:
    assert negotiate(request((CT, proposed)), Policy()).contexts[1].transfer_syntax == accepted


def test_no_transfer_syntax_is_none_acceptable() -> None:
    assert negotiate(request((CT, ())), Policy()).answer.contexts == (ContextAnswer(1, 4),)


def test_uncompressed_only() -> None:
    policy = Policy(uncompressed_only=True, promiscuous=True)
    asked = request((CT, (JPEG, BIG_ENDIAN, EXPLICIT)), (CT, (JPEG, PRIVATE)), (MR, (IMPLICIT,)))
    negotiated = negotiate(asked, policy)
    assert negotiated.answer.contexts == (
        ContextAnswer(1, 0, EXPLICIT),
        ContextAnswer(3, 4),
        ContextAnswer(5, 0, IMPLICIT),
    )


def test_promiscuous_accepts_any_abstract_and_transfer_syntax() -> None:
    negotiated = negotiate(request((PRIVATE, (XML, PRIVATE, EXPLICIT))), Policy(promiscuous=True))
    assert negotiated.contexts == {1: AcceptedContext(1, PRIVATE, PRIVATE, Encoding.EXPLICIT_LE)}


def test_a_missing_abstract_syntax_is_not_supported_even_so() -> None:
    negotiated = negotiate(request(("", (EXPLICIT,))), Policy(promiscuous=True))
    assert negotiated.answer.contexts == (ContextAnswer(1, 3),)


def test_an_association_without_contexts_is_accepted() -> None:
    negotiated = negotiate(request(), Policy())
    assert negotiated.contexts == {}
    assert negotiated.answer.contexts == ()


# ---- user information ----------------------------------------------------------------------


def test_maximum_lengths_are_each_sides_own() -> None:
    asked = request(user=UserInformation(max_pdu_length=4096))
    negotiated = negotiate(asked, Policy(max_pdu_length=65536))
    assert negotiated.peer_max_pdu_length == 4096
    assert negotiated.answer.max_pdu_length == 65536
    assert negotiate(request(), Policy()).answer.max_pdu_length == 131072


@pytest.mark.parametrize(
    ("proposed", "ours", "window"),
    [
        (None, 1, None),
        ((5, 3), 1, (1, 1)),
        ((5, 3), 4, (4, 3)),
        ((0, 0), 1, (1, 1)),
        ((0, 7), 0, (0, 7)),
        ((1, 1), 8, (1, 1)),
    ],
)
def test_asynchronous_operations_window(
    proposed: tuple[int, int] | None, ours: int, window: tuple[int, int] | None
) -> None:
    asked = request(user=UserInformation(operations=proposed))
    assert negotiate(asked, Policy(max_operations=ours)).answer.operations == window


def test_the_requestor_may_be_scu_but_never_scp() -> None:
    roles = (RoleSelection(CT, 1, 1), RoleSelection(MR, 0, 1), RoleSelection(VERIFICATION, 9, 0))
    asked = request(
        (CT, (IMPLICIT,)),
        (MR, (IMPLICIT,)),
        (VERIFICATION, (IMPLICIT,)),
        user=UserInformation(roles=roles),
    )
    assert negotiate(asked, Policy()).answer.roles == (
        RoleSelection(CT, 1, 0),
        RoleSelection(MR, 0, 0),
        RoleSelection(VERIFICATION, 0, 0),
    )


def test_roles_of_unaccepted_sop_classes_are_not_answered() -> None:
    roles = (RoleSelection(PRIVATE, 1, 0), RoleSelection(CT, 1, 0), RoleSelection(MR, 1, 0))
    asked = request((PRIVATE, (IMPLICIT,)), (CT, (XML,)), user=UserInformation(roles=roles))
    assert negotiate(asked, Policy()).answer.roles == ()


def test_the_answer_to_the_greatest_request_fits_into_its_item() -> None:
    uids = [f"{i:064d}" for i in range(127)] + ["9" * 60000]
    asked = request(
        *((uid, (IMPLICIT,)) for uid in uids),
        user=UserInformation(roles=tuple(RoleSelection(uid, 1, 1) for uid in uids)),
    )
    negotiated = negotiate(asked, Policy(promiscuous=True))
    assert len(negotiated.contexts) == 128
    assert len(negotiated.answer.roles) == 127
    assert encode_associate_ac(asked, negotiated.answer)


@pytest.mark.parametrize(
    ("identity", "response"),
    [(None, False), (UserIdentity(2, True), True), (UserIdentity(1, False), False)],
)
def test_user_identity_is_answered_when_asked(
    identity: UserIdentity | None, response: bool
) -> None:
    negotiated = negotiate(request(user=UserInformation(identity=identity)), Policy())
    assert negotiated.answer.user_identity_response is response


# ---- rejections ----------------------------------------------------------------------------


def rejection(asked: AssociateRequest, policy: Policy) -> tuple[int, int, int]:
    with pytest.raises(AssociationRejectedError) as caught:
        negotiate(asked, policy)
    return caught.value.result, caught.value.source, caught.value.reason


@pytest.mark.parametrize("version", [0, 2, 0xFFFE])
def test_protocol_version_without_bit_0(version: int) -> None:
    assert rejection(request(version=version, application_context=""), Policy()) == (1, 2, 2)


@pytest.mark.parametrize("version", [3, 0xFFFF])
def test_further_protocol_versions_beside_ours(version: int) -> None:
    negotiate(request(version=version), Policy())


@pytest.mark.parametrize("application_context", ["", "1.2.840.10008.3.1.1.2"])
def test_another_application_context(application_context: str) -> None:
    assert rejection(request(application_context=application_context), Policy()) == (1, 1, 2)


def test_called_ae_title() -> None:
    negotiate(request(), Policy(ae_title="OTHER"))
    negotiate(request(), Policy(ae_title="CHRIS", check_called=True))
    assert rejection(request(), Policy(ae_title="ChRIS", check_called=True)) == (1, 1, 7)


def test_calling_ae_title() -> None:
    negotiate(request(), Policy(allowed_calling=frozenset({"MODALITY", "X"})))
    assert rejection(request(), Policy(allowed_calling=frozenset({"X"}))) == (1, 1, 3)
