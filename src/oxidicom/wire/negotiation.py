"""Presentation context negotiation for an A-ASSOCIATE-RQ (PS3.8 7.1.1 and 9.3.3; decisions 9, 11 to
13, 15)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from oxidicom.constants import APPLICATION_CONTEXT, ContextResult, Encoding
from oxidicom.errors import AssociationRejectedError
from oxidicom.uids import UNCOMPRESSED, abstract_syntaxes, transfer_syntax_encoding
from oxidicom.wire.items import (
    AssociateAnswer,
    AssociateRequest,
    ContextAnswer,
    PresentationContext,
    RoleSelection,
)

_MAX_UID_LENGTH = 64  # PS3.5 9.1


@dataclass(frozen=True, slots=True)
class Policy:
    """The operator's settings for accepting associations."""

    ae_title: str = "ChRIS"
    check_called: bool = False
    """Whether requests are rejected if the called AE title is not `ae_title`."""
    allowed_calling: frozenset[str] = frozenset()
    """Calling AE titles that are allowed; if it is empty, all are."""
    promiscuous: bool = False
    """Whether unknown abstract and transfer syntaxes are accepted."""
    uncompressed_only: bool = False
    """Whether only uncompressed transfer syntaxes are accepted."""
    strict: bool = False
    """Whether a P-DATA-TF longer than `max_pdu_length` aborts the association."""
    max_pdu_length: int = 131072
    """Maximum Length that we advertise, in bytes; 0 is unlimited."""
    max_operations: int = 1
    """Greatest window of asynchronous operations, if a peer proposes one; 0 is unlimited."""


class AcceptedContext(NamedTuple):
    """A presentation context that was accepted."""

    id: int
    abstract_syntax: str
    transfer_syntax: str
    encoding: Encoding


class Negotiated(NamedTuple):
    """The result of a negotiation."""

    contexts: Mapping[int, AcceptedContext]
    """The accepted contexts, by presentation context id."""
    answer: AssociateAnswer
    """The content of the A-ASSOCIATE-AC, for `items.encode_associate_ac`."""
    peer_max_pdu_length: int
    """Greatest P-DATA-TF variable field that the peer receives, in bytes; 0 is unlimited."""


def negotiate(request: AssociateRequest, policy: Policy) -> Negotiated:
    """Decide on each proposed context. Raises AssociationRejectedError for the whole request.

    An association without an accepted context is still an association (PS3.8 9.3.3).
    """
    _check(request, policy)
    accepted: dict[int, AcceptedContext] = {}
    answers = []
    for proposed in request.presentation_contexts:
        outcome = _choose(proposed, policy)
        if isinstance(outcome, AcceptedContext):
            accepted[outcome.id] = outcome
            answers.append(
                ContextAnswer(outcome.id, ContextResult.ACCEPTANCE, outcome.transfer_syntax)
            )
        else:
            answers.append(ContextAnswer(proposed.id, outcome))
    user = request.user
    answer = AssociateAnswer(
        contexts=tuple(answers),
        max_pdu_length=policy.max_pdu_length,
        operations=_operations(user.operations, policy.max_operations),
        roles=_roles(user.roles, accepted),
        user_identity_response=user.identity is not None and user.identity.response_requested,
    )
    return Negotiated(accepted, answer, user.max_pdu_length)


def _check(request: AssociateRequest, policy: Policy) -> None:
    """Raise AssociationRejectedError with result, source and reason (PS3.8 table 9-21).

    Result 1 is permanent; source 1 is the user, 2 the ACSE provider.
    """
    if not request.protocol_version & 1:
        raise AssociationRejectedError(1, 2, 2, "protocol version is not supported")
    if request.application_context != APPLICATION_CONTEXT:
        raise AssociationRejectedError(1, 1, 2, "application context is not DICOM's")
    if policy.check_called and request.called_ae_title != policy.ae_title:
        raise AssociationRejectedError(1, 1, 7, "called AE title is not ours")
    if policy.allowed_calling and request.calling_ae_title not in policy.allowed_calling:
        raise AssociationRejectedError(1, 1, 3, "calling AE title is not allowed")


def _choose(proposed: PresentationContext, policy: Policy) -> AcceptedContext | ContextResult:
    """Return the accepted context, or the result that refuses it.

    The first acceptable transfer syntax in the order of the request is chosen, because instances
    are stored as they are sent, never converted.
    """
    abstract_syntax = proposed.abstract_syntax
    if abstract_syntax not in abstract_syntaxes() and not (policy.promiscuous and abstract_syntax):
        return ContextResult.ABSTRACT_SYNTAX_NOT_SUPPORTED
    for uid in proposed.transfer_syntaxes:
        if policy.uncompressed_only and uid not in UNCOMPRESSED:
            continue
        encoding = transfer_syntax_encoding(uid, policy.promiscuous)
        if encoding is not None:
            return AcceptedContext(proposed.id, abstract_syntax, uid, encoding)
    return ContextResult.TRANSFER_SYNTAXES_NOT_SUPPORTED


def _operations(proposed: tuple[int, int] | None, ours: int) -> tuple[int, int] | None:
    """Return the smaller of our window and each proposed one; 0 is unlimited (PS3.7 D.3.3.3).

    Return None if the peer proposed none.
    """
    if proposed is None:
        return None
    invoked, performed = proposed
    return _smaller(invoked, ours), _smaller(performed, ours)


def _smaller(theirs: int, ours: int) -> int:
    return min(theirs, ours) if theirs and ours else theirs or ours


def _roles(
    proposed: tuple[RoleSelection, ...], accepted: Mapping[int, AcceptedContext]
) -> tuple[RoleSelection, ...]:
    """Return the answers to role selections: the requestor may be SCU, not SCP (PS3.7 D.3.3.4).

    Only SOP classes of accepted contexts are answered, so that the answer fits into its item.
    """
    if not proposed:
        return ()
    used = {context.abstract_syntax for context in accepted.values()}
    return tuple(
        role._replace(scu=int(role.scu == 1), scp=0)
        for role in proposed
        if role.sop_class_uid in used and len(role.sop_class_uid) <= _MAX_UID_LENGTH
    )
