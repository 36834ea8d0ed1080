"""The targets of fuzzing: each takes any bytes, and raises where an invariant does not hold.

`python -m tests.fuzz.run` feeds them by coverage, `test_corpus.py` with what that has found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from oxidicom._dimse import file_name as common_file_name
from oxidicom._dimse import read_store_request, success_response
from oxidicom._pdu import CommandSet, Data, Framer, Pdu, Violation
from oxidicom.constants import APPLICATION_CONTEXT, CommandField, Encoding, PduType
from oxidicom.errors import AssociationRejectedError, PeerError
from oxidicom.store.paths import instance_file_name
from oxidicom.store.tags import text_of
from oxidicom.wire.dimse import (
    decode_command,
    decode_general_command,
    encode_response,
    encode_unsupported_response,
)
from oxidicom.wire.items import decode_associate_rq, encode_associate_ac
from oxidicom.wire.negotiation import Policy, negotiate
from tests.fuzz.connection import any_bytes, conversation
from tests.fuzz.inputs import cut, flags_cuts_payload
from tests.support import raw_peer as peer
from tests.unit.test_dataset_walk import deflate, read, read_bytewise

Target = Callable[[bytes], None]

BYTEWISE = 512
"""Longest payload that is fed byte by byte too: beyond it that takes too long."""


# ---- PDUs --------------------------------------------------------------------------------------

ADVERTISED = (0, 16, 100, 16384)
REQUEST = peer.pdu(peer.RQ, b"")


def framing(data: bytes) -> None:
    """Whatever the cuts, a framer finds the same PDUs, commands and data (PS3.8 9.3)."""
    flags, cuts, payload = flags_cuts_payload(data)
    whole = framed(payload, flags, ())
    assert framed(payload, flags, cuts) == whole
    if len(payload) <= BYTEWISE:
        assert framed(payload, flags, range(1, len(payload))) == whole


def framed(payload: bytes, flags: int, cuts: Iterable[int]) -> list[tuple[object, ...]]:
    """Events with neighbouring fragments joined, since each receive ends one."""
    framer = Framer(ADVERTISED[flags >> 2 & 3], bool(flags & 1))
    associated = not flags & 2
    if associated:
        framer.feed(REQUEST, 0, len(REQUEST))
    found: list[tuple[object, ...]] = []
    for part in cut(payload, cuts):
        for event in framer.feed(part, 0, len(part)):
            assert not found or found[-1][0] is not Violation, "something after the end"
            if isinstance(event, Data):
                assert 0 <= event.start <= event.stop <= len(part)
                add_fragment(found, event.context_id, part[event.start : event.stop], event.last)
            elif isinstance(event, CommandSet):
                found.append((CommandSet, event.context_id, event.data))
            elif isinstance(event, Pdu):
                found.append((Pdu, event.type, event.body))
                if not associated and event.type == PduType.A_ASSOCIATE_RQ:
                    # What comes in the same receive comes too early, so here the cuts matter.
                    return found
            else:
                found.append((Violation, event.reason, event.text))
                assert not framer.mid_message
    return [*found, (framer.mid_message,)]


def add_fragment(found: list[tuple[object, ...]], context: int, data: bytes, last: bool) -> None:
    match found[-1:]:
        case [(kind, same, bytes(earlier), False)] if kind is Data and same == context:
            found[-1] = (Data, context, earlier + data, last)
        case _:
            found.append((Data, context, data, last))


# ---- A-ASSOCIATE-RQ ----------------------------------------------------------------------------

FIXED = b"\0\1\0\0" + b"CHRIS".ljust(16) + b"FUZZ".ljust(16) + bytes(32)
APPLICATION = peer.item(0x10, APPLICATION_CONTEXT.encode())


def request(data: bytes) -> None:
    """A request is answered by a well-formed acceptance, rejected or aborted (PS3.8 9.3.2)."""
    flags, body = (data or b"\0")[0], data[1:]
    policy = Policy(
        promiscuous=bool(flags & 1),
        uncompressed_only=bool(flags & 2),
        check_called=bool(flags & 4),
        max_operations=flags >> 6,
    )
    if not flags & 8:
        body = FIXED + APPLICATION + body
    try:
        asked = decode_associate_rq(body)
        answer = negotiate(asked, policy).answer
    except PeerError as error:
        assert error.reason == 6  # noqa: PT017
        return
    except AssociationRejectedError:
        return
    accepted = encode_associate_ac(asked, answer)
    assert int.from_bytes(accepted[2:6]) == len(accepted) - 6
    kinds = [kind for kind, _ in peer.associate_ac_items(accepted[6:])]
    contexts = len(asked.presentation_contexts)
    assert kinds == [0x10, *[0x21] * contexts, 0x50]
    assert dict(peer.items(peer.user_information(accepted[6:]))).keys() >= {0x51, 0x52}


# ---- commands ----------------------------------------------------------------------------------


def command(data: bytes) -> None:
    """The compiled reader and writer agree with the general decoder and encoder (PS3.7 6.3)."""
    store_request = read_store_request(data)
    try:
        decoded = decode_command(data)
    except PeerError as error:
        assert error.reason == 6  # noqa: PT017
        assert store_request is None
        return
    assert decoded == decode_general_command(data)
    peer.parse_command_set(encode_unsupported_response(decoded))
    if store_request is None:
        return
    assert (decoded.field, decoded.has_data_set) == (peer.C_STORE_RQ, True)
    assert store_request == (decoded.message_id, decoded.sop_class_uid, decoded.sop_instance_uid)
    response = encode_response(CommandField.C_STORE_RSP, *store_request)
    assert success_response(*store_request) == response


def file_name(data: bytes) -> None:
    """A file name is the same in its compiled and in its general form (decision 27)."""
    number, _, uid = data.partition(b"\\")
    named = common_file_name(number, uid)
    instance = text_of("SOPInstanceUID", uid, "UI")
    if named is None or instance is None:
        assert named is None
        return
    uid_text = instance.strip(" \0")
    plain = text_of("InstanceNumber", number, "IS")
    assert named == (uid_text, instance_file_name(plain, uid_text))


# ---- data sets ---------------------------------------------------------------------------------


def walk(data: bytes) -> None:
    """Whatever the cuts, the same values are found in each of three encodings (PS3.5 7.1)."""
    flags, cuts, payload = flags_cuts_payload(data)
    same_whatever_the_cuts(payload, cuts, Encoding(flags % 3))


def inflate(data: bytes) -> None:
    """The same of a deflated data set (PS3.5 A.5), as sent or deflated here."""
    flags, cuts, payload = flags_cuts_payload(data)
    sent = deflate(payload) if flags & 1 else payload
    same_whatever_the_cuts(sent, cuts, Encoding.DEFLATED, BYTEWISE // 4)


def same_whatever_the_cuts(
    data: bytes, cuts: list[int], encoding: Encoding, bytewise: int = BYTEWISE
) -> None:
    outcome = read(data, encoding)
    assert outcome.failed is (outcome.error is not None)
    assert len(outcome.error or "") <= 40
    assert all(value is None or len(value) <= 0xFFFF for value in outcome.values)
    assert read(data, encoding, [min(cut, len(data)) for cut in cuts]) == outcome
    if len(data) <= bytewise:
        assert read_bytewise(data, encoding) == outcome


TARGETS: Mapping[str, Target] = {
    target.__name__: target
    for target in (
        framing, request, command, file_name, walk, inflate, any_bytes, conversation,
    )
}  # fmt: skip
