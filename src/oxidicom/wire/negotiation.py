"""What of an A-ASSOCIATE-RQ we accept (PS3.8 7.1.1 and 9.3.3; decisions 9, 11 to 13, 15)."""

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
    """What the operator allows."""

    ae_title: str = "ChRIS"
    check_called: bool = False
    """Refuse whoever calls another AE title than ours."""
    allowed_calling: frozenset[str] = frozenset()
    """Calling AE titles let in; empty: all."""
    promiscuous: bool = False
    uncompressed_only: bool = False
    strict: bool = False
    """Abort at a P-DATA-TF longer than `max_pdu_length`."""
    max_pdu_length: int = 131072
    """Advertised, bytes; 0 is unlimited."""
    max_operations: int = 1
    """Outstanding operations let in where asynchronous operations are asked for; 0: unlimited."""


class AcceptedContext(NamedTuple):
    """A presentation context that may be used."""

    id: int
    abstract_syntax: str
    transfer_syntax: str
    encoding: Encoding


class Negotiated(NamedTuple):
    contexts: Mapping[int, AcceptedContext]
    """By presentation context id."""
    answer: AssociateAnswer
    """For `items.encode_associate_ac`."""
    peer_max_pdu_length: int
    """Greatest P-DATA-TF variable field that the peer receives, bytes; 0 is unlimited."""


def negotiate(request: AssociateRequest, policy: Policy) -> Negotiated:
    """Accept each context that we can, or raise AssociationRejectedError for the whole.

    An association of which no context is accepted is still an association (PS3.8 9.3.3).
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
    """PS3.8 table 9-21: result 1 is permanent; source 1 the user, 2 the ACSE provider."""
    if not request.protocol_version & 1:
        raise AssociationRejectedError(1, 2, 2, "protocol version is not supported")
    if request.application_context != APPLICATION_CONTEXT:
        raise AssociationRejectedError(1, 1, 2, "application context is not DICOM's")
    if policy.check_called and request.called_ae_title != policy.ae_title:
        raise AssociationRejectedError(1, 1, 7, "called AE title is not ours")
    if policy.allowed_calling and request.calling_ae_title not in policy.allowed_calling:
        raise AssociationRejectedError(1, 1, 3, "calling AE title is not allowed")


def _choose(proposed: PresentationContext, policy: Policy) -> AcceptedContext | ContextResult:
    """The first acceptable transfer syntax in the requester's order: we never convert."""
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
    """PS3.7 D.3.3.3: the smaller window counts, and 0 is the greatest."""
    if proposed is None:
        return None
    invoked, performed = proposed
    return _smaller(invoked, ours), _smaller(performed, ours)


def _smaller(theirs: int, ours: int) -> int:
    return min(theirs, ours) if theirs and ours else theirs or ours


def _roles(
    proposed: tuple[RoleSelection, ...], accepted: Mapping[int, AcceptedContext]
) -> tuple[RoleSelection, ...]:
    """PS3.7 D.3.3.4: the requester may be SCU as it likes, never SCP, because we are no SCU.

    Only SOP classes of accepted contexts are answered, so that the answer fits into its item
    however many the request names.
    """
    if not proposed:
        return ()
    used = {context.abstract_syntax for context in accepted.values()}
    return tuple(
        role._replace(scu=int(role.scu == 1), scp=0)
        for role in proposed
        if role.sop_class_uid in used and len(role.sop_class_uid) <= _MAX_UID_LENGTH
    )
