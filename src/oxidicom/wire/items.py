"""The variable items of A-ASSOCIATE (PS3.8 9.3.2, 9.3.3 and annex D; PS3.7 annex D.3.3).

This module decodes and encodes them; `negotiation` decides what is acceptable. Items may be in any
order; unknown ones are skipped (PS3.8 9.3.1), and the last of repeated ones is used. A second
presentation context of the same id, or a second user information item, is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from struct import Struct
from typing import Final, NamedTuple

from oxidicom.constants import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    IMPLICIT_VR_LITTLE_ENDIAN,
    AbortReason,
    PduType,
)
from oxidicom.errors import PeerError

_APPLICATION_CONTEXT: Final = 0x10
_PRESENTATION_CONTEXT_RQ: Final = 0x20
_PRESENTATION_CONTEXT_AC: Final = 0x21
_ABSTRACT_SYNTAX: Final = 0x30
_TRANSFER_SYNTAX: Final = 0x40
_USER_INFORMATION: Final = 0x50
_MAXIMUM_LENGTH: Final = 0x51
_IMPLEMENTATION_CLASS_UID: Final = 0x52
_ASYNCHRONOUS_OPERATIONS: Final = 0x53
_ROLE_SELECTION: Final = 0x54
_IMPLEMENTATION_VERSION_NAME: Final = 0x55
_USER_IDENTITY_RQ: Final = 0x58
_USER_IDENTITY_AC: Final = 0x59

_FIXED_LENGTH: Final = 68
"""Bytes before the first item: protocol version, two AE titles and reserved bytes."""

_MAX_CONTEXTS: Final = 128
"""Greatest number of presentation contexts in a request: ids are odd and fit into one byte."""

_MAX_CACHED_BYTES: Final = 512
"""Greatest size in bytes of a presentation context that is cached, so that a hostile peer cannot
fill the memory."""

_AE_PADDING: Final = "\0 \t\n\v\f\r\x85\xa0"
"""Characters trimmed from both ends of an AE title: NUL and Latin-1 white space (decision 9)."""

_item = Struct(">BxH")
_context_answer = Struct(">BxH BxBx BxH")
_u16 = Struct(">H")
_u32 = Struct(">I")
_two_u16 = Struct(">HH")


class PresentationContext(NamedTuple):
    """One proposed presentation context (PS3.8 9.3.2.2)."""

    id: int
    """Presentation context id: odd, 1 to 255, unique in its request."""
    abstract_syntax: str
    """Abstract syntax UID; empty if the item is missing."""
    transfer_syntaxes: tuple[str, ...]
    """Transfer syntax UIDs in the order of the request."""


class RoleSelection(NamedTuple):
    """Whether the requestor may be SCU, and SCP, of one SOP class: 1 or 0 (PS3.7 D.3.3.4)."""

    sop_class_uid: str
    scu: int
    scp: int


class UserIdentity(NamedTuple):
    """A proposed user identity without its secrets, which are never kept (PS3.7 D.3.3.7)."""

    type: int
    response_requested: bool


class UserInformation(NamedTuple):
    """The user information item (PS3.8 annex D.3.3)."""

    max_pdu_length: int = 0
    """Greatest P-DATA-TF variable field that the peer receives, in bytes; 0 is unlimited."""
    implementation_class_uid: str = ""
    implementation_version_name: str = ""
    operations: tuple[int, int] | None = None
    """Proposed numbers of asynchronous operations invoked and performed; 0 is unlimited."""
    roles: tuple[RoleSelection, ...] = ()
    identity: UserIdentity | None = None


class AssociateRequest(NamedTuple):
    """A decoded A-ASSOCIATE-RQ (PS3.8 9.3.2)."""

    protocol_version: int
    called_ae_title: str
    calling_ae_title: str
    """Calling AE title, trimmed; `UNKNOWN` if it is blank."""
    echo: bytes
    """The 64 bytes of AE titles and reserved fields, which an answer sends back unchanged."""
    application_context: str = ""
    presentation_contexts: tuple[PresentationContext, ...] = ()
    user: UserInformation = UserInformation()


class ContextAnswer(NamedTuple):
    """One presentation context of an A-ASSOCIATE-AC (PS3.8 9.3.3.2)."""

    id: int
    result: int
    transfer_syntax: str = IMPLICIT_VR_LITTLE_ENDIAN
    """Transfer syntax UID. It has no meaning unless the context is accepted, but is mandatory."""


class AssociateAnswer(NamedTuple):
    """The content of an A-ASSOCIATE-AC beyond what it echoes (PS3.8 9.3.3)."""

    contexts: tuple[ContextAnswer, ...]
    max_pdu_length: int
    operations: tuple[int, int] | None = None
    roles: tuple[RoleSelection, ...] = ()
    user_identity_response: bool = False


# ---- decode --------------------------------------------------------------------------------


def decode_associate_rq(body: bytes) -> AssociateRequest:
    """Decode an A-ASSOCIATE-RQ; `body` has all bytes after the PDU's 6-byte header.

    If the protocol version is not supported, only the fixed fields are read, because the items of
    another version may differ. Raises PeerError (reason 6) for a malformed request.
    """
    if len(body) < _FIXED_LENGTH:
        raise _invalid("A-ASSOCIATE-RQ is shorter than its fixed fields")
    (version,) = _u16.unpack_from(body)
    echo = body[4:_FIXED_LENGTH]
    fixed = AssociateRequest(
        protocol_version=version,
        called_ae_title=_ae_title(echo[:16]),
        calling_ae_title=_ae_title(echo[16:32]) or "UNKNOWN",
        echo=echo,
    )
    if not version & 1:
        return fixed

    application_context = ""
    contexts: dict[int, PresentationContext] = {}
    user: UserInformation | None = None
    for kind, start, end in _items(body, _FIXED_LENGTH, len(body)):
        if kind == _PRESENTATION_CONTEXT_RQ:
            context = _presentation_context(body, start, end)
            if context.id in contexts:
                raise _invalid(f"presentation context id {context.id} is proposed twice")
            contexts[context.id] = context
        elif kind == _APPLICATION_CONTEXT:
            application_context = _trimmed(body[start:end])
        elif kind == _USER_INFORMATION:
            if user is not None:
                raise _invalid("two user information items")  # PS3.8 9.3.2 has one
            user = _user_information(body, start, end)

    return fixed._replace(
        application_context=application_context,
        presentation_contexts=tuple(contexts.values()),
        user=user or UserInformation(),
    )


def _presentation_context(body: bytes, start: int, end: int) -> PresentationContext:
    """Decode a proposed presentation context (PS3.8 9.3.2.2)."""
    if end - start < 4:
        raise _invalid("presentation context item is shorter than its fixed fields")
    context_id = body[start]
    if not context_id & 1:
        raise _invalid(f"presentation context id {context_id} is not odd")
    sub_items = body[start + 4 : end]
    if len(sub_items) <= _MAX_CACHED_BYTES:
        return PresentationContext(context_id, *_cached_syntaxes(sub_items))
    return PresentationContext(context_id, *_syntaxes(sub_items))


def _syntaxes(sub_items: bytes) -> tuple[str, tuple[str, ...]]:
    """Return the abstract syntax and the transfer syntaxes (PS3.8 9.3.2.2.1, 9.3.2.2.2)."""
    abstract_syntax = ""
    transfer_syntaxes = []
    for kind, start, end in _items(sub_items, 0, len(sub_items)):
        if kind == _TRANSFER_SYNTAX:
            transfer_syntaxes.append(_trimmed(sub_items[start:end]))
        elif kind == _ABSTRACT_SYNTAX:
            abstract_syntax = _trimmed(sub_items[start:end])
    return abstract_syntax, tuple(transfer_syntaxes)


_cached_syntaxes = lru_cache(maxsize=1024)(_syntaxes)
"""`_syntaxes` with a cache, because a device proposes the same contexts in each association."""


def _user_information(body: bytes, start: int, end: int) -> UserInformation:
    """Decode user information (PS3.8 annex D.3.3). Extended negotiation (56H, 57H) is skipped."""
    values: dict[int, bytes] = {}
    role_values = []
    for kind, begin, stop in _items(body, start, end):
        if kind == _ROLE_SELECTION:
            role_values.append(body[begin:stop])
        else:
            values[kind] = body[begin:stop]
    if len(role_values) > _MAX_CONTEXTS:
        raise _invalid("more role selections than a request can have SOP classes")
    roles = {role.sop_class_uid: role for role in map(_role_selection, role_values)}

    max_pdu_length = 0
    operations = identity = None
    if (value := values.get(_MAXIMUM_LENGTH)) is not None:
        (max_pdu_length,) = _unpack(_u32, value, "maximum length item")
    if (value := values.get(_ASYNCHRONOUS_OPERATIONS)) is not None:
        invoked, performed = _unpack(_two_u16, value, "asynchronous operations item")
        operations = (invoked, performed)
    if (value := values.get(_USER_IDENTITY_RQ)) is not None:
        identity = _user_identity(value)
    return UserInformation(
        max_pdu_length=max_pdu_length,
        implementation_class_uid=_trimmed(values.get(_IMPLEMENTATION_CLASS_UID, b"")),
        implementation_version_name=_trimmed(values.get(_IMPLEMENTATION_VERSION_NAME, b"")),
        operations=operations,
        roles=tuple(roles.values()),
        identity=identity,
    )


def _role_selection(value: bytes) -> RoleSelection:
    """Decode a role selection (PS3.7 D.3.3.4.1)."""
    if len(value) < 4 or int.from_bytes(value[:2]) != len(value) - 4:
        raise _invalid("role selection item is not as long as its UID demands")
    return RoleSelection(_trimmed(value[2:-2]), value[-2], value[-1])


def _user_identity(value: bytes) -> UserIdentity:
    """Decode a user identity (PS3.7 D.3.3.7.1). Only the lengths of its two fields are read."""
    text = "user identity item"
    (primary_length,) = _unpack(_u16, value[2:4], text)
    (secondary_length,) = _unpack(_u16, value[4 + primary_length : 6 + primary_length], text)
    if len(value) < 6 + primary_length + secondary_length:
        raise _invalid(f"{text} is shorter than its fields")
    return UserIdentity(value[0], value[1] == 1)


def _items(body: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield the type of each item in `body[start:end]`, and the start and end of its content."""
    unpack = _item.unpack_from
    while start < end:
        if end - start < 4:
            raise _invalid("A-ASSOCIATE-RQ ends within the header of an item")
        kind, length = unpack(body, start)
        start += 4
        stop = start + length
        if stop > end:
            raise _invalid(f"item {kind:02X}H runs past the end of what holds it")
        yield kind, start, stop
        start = stop


def _unpack(layout: Struct, value: bytes, name: str) -> tuple[int, ...]:
    if len(value) != layout.size:
        raise _invalid(f"{name} has the wrong length")
    return layout.unpack(value)


def _ae_title(field: bytes) -> str:
    return field.decode("latin-1").strip(_AE_PADDING)


def _trimmed(value: bytes) -> str:
    """Return a UID without padding, which peers send in spite of PS3.8 annex F (decision 9)."""
    return value.strip(b"\0 ").decode("latin-1")


def _invalid(text: str) -> PeerError:
    return PeerError(AbortReason.INVALID_PDU_PARAMETER_VALUE, text)


# ---- encode --------------------------------------------------------------------------------


def encode_associate_ac(request: AssociateRequest, answer: AssociateAnswer) -> bytes:
    """Encode a whole A-ASSOCIATE-AC PDU (PS3.8 9.3.3), header included."""
    variable = b"".join(
        (
            b"\0\1\0\0",
            request.echo,
            _encoded_item(_APPLICATION_CONTEXT, request.application_context.encode("latin-1")),
            *map(_encoded_context, answer.contexts),
            _encoded_item(_USER_INFORMATION, _encoded_user_information(answer)),
        )
    )
    return bytes((PduType.A_ASSOCIATE_AC, 0)) + _u32.pack(len(variable)) + variable


def _encoded_context(context: ContextAnswer) -> bytes:
    uid = context.transfer_syntax.encode("latin-1")
    length = len(uid)
    return (
        _context_answer.pack(
            _PRESENTATION_CONTEXT_AC,
            8 + length,
            context.id,
            context.result,
            _TRANSFER_SYNTAX,
            length,
        )
        + uid
    )


def _encoded_user_information(answer: AssociateAnswer) -> bytes:
    """Encode sub-items in ascending order of their types. Some are sent only if proposed."""
    items = [
        _encoded_item(_MAXIMUM_LENGTH, _u32.pack(answer.max_pdu_length)),
        _encoded_item(_IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_CLASS_UID.encode()),
    ]
    if answer.operations is not None:
        items.append(_encoded_item(_ASYNCHRONOUS_OPERATIONS, _two_u16.pack(*answer.operations)))
    for role in answer.roles:
        uid = role.sop_class_uid.encode("latin-1")
        value = _u16.pack(len(uid)) + uid + bytes((role.scu, role.scp))
        items.append(_encoded_item(_ROLE_SELECTION, value))
    items.append(_encoded_item(_IMPLEMENTATION_VERSION_NAME, IMPLEMENTATION_VERSION_NAME.encode()))
    if answer.user_identity_response:
        # We have no credential to send back, so the server response has length zero.
        items.append(_encoded_item(_USER_IDENTITY_AC, _u16.pack(0)))
    return b"".join(items)


def _encoded_item(kind: int, value: bytes) -> bytes:
    return _item.pack(kind, len(value)) + value
