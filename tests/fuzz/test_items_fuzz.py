"""Whatever a peer sends is decoded, or refused by PeerError: nothing else, and in linear time."""

from __future__ import annotations

from collections.abc import Callable
from struct import pack
from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oxidicom.constants import APPLICATION_CONTEXT, MAX_ASSOCIATE_RQ_LENGTH, MAX_COMMAND_LENGTH
from oxidicom.errors import AssociationRejectedError, PeerError
from oxidicom.wire.dimse import (
    Command,
    decode_command,
    decode_general_command,
    encode_unsupported_response,
)
from oxidicom.wire.items import decode_associate_rq, encode_associate_ac
from oxidicom.wire.negotiation import Policy, negotiate

FIXED = b"\0\1\0\0" + b"CHRIS".ljust(16) + b"FUZZ".ljust(16) + bytes(32)

POLICIES = st.builds(
    Policy,
    promiscuous=st.booleans(),
    uncompressed_only=st.booleans(),
    check_called=st.booleans(),
    max_operations=st.integers(0, 0xFFFF),
)


def item(kind: int, value: bytes) -> bytes:
    return pack(">BxH", kind, len(value)) + value


def items(kinds: list[int], values: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    some = st.builds(item, st.sampled_from(kinds), values)
    return st.lists(some, max_size=6).map(b"".join)


def role(uid: bytes, roles: bytes) -> bytes:
    return pack(">H", len(uid)) + uid + roles


UIDS = st.one_of(
    st.sampled_from([b"1.2.840.10008.1.2", b"1.2.840.10008.5.1.4.1.1.2", b" 1.2\0"]),
    st.binary(max_size=70),
)
ROLES = st.builds(role, UIDS, st.binary(min_size=2, max_size=2))
VALUES = st.one_of(UIDS, ROLES, st.binary(max_size=12))
CONTEXTS = st.builds(
    lambda context_id, sub_items: bytes((context_id, 0, 0, 0)) + sub_items,
    st.integers(0, 255),
    items([0x30, 0x40, 0x41], UIDS),
)
USERS = items([0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x5A], VALUES)
REQUESTS = items([0x10, 0x20, 0x50, 0x60], st.one_of(CONTEXTS, USERS)).map(
    lambda variable: FIXED + item(0x10, APPLICATION_CONTEXT.encode()) + variable
)


def answer(body: bytes, policy: Policy) -> None:
    try:
        request = decode_associate_rq(body)
        negotiated = negotiate(request, policy)
    except PeerError as error:
        assert error.reason == 6  # noqa: PT017
    except AssociationRejectedError:
        pass
    else:
        encoded = encode_associate_ac(request, negotiated.answer)
        assert int.from_bytes(encoded[2:6]) == len(encoded) - 6
        assert len(negotiated.answer.contexts) == len(request.presentation_contexts)


@given(st.binary(max_size=300), POLICIES)
def test_any_bytes_as_request(body: bytes, policy: Policy) -> None:
    answer(body, policy)
    answer(FIXED + body, policy)


@settings(max_examples=300)
@given(REQUESTS, POLICIES)
def test_requests_of_odd_items(body: bytes, policy: Policy) -> None:
    answer(body, policy)


@given(REQUESTS, st.data())
def test_damaged_requests(body: bytes, data: st.DataObject) -> None:
    damaged = bytearray(body)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    answer(bytes(damaged), Policy(promiscuous=True))


@pytest.mark.parametrize(
    "filling",
    [
        item(0x77, b"") * (MAX_ASSOCIATE_RQ_LENGTH // 4),
        item(0x50, item(0x52, b"") * 16383) * 4,
        item(0x50, item(0x54, role(b"", b"\1\0")) * 8191) * 4,
        b"".join(item(0x20, bytes((i, 0, 0, 0)) + item(0x40, b"") * 16382) for i in (1, 3, 5)),
    ],
)
def test_the_most_items_that_a_request_can_hold(filling: bytes) -> None:
    room = MAX_ASSOCIATE_RQ_LENGTH - len(FIXED)
    body = FIXED + filling[: room - room % 4]
    began = process_time()
    answer(body, Policy(promiscuous=True))
    assert process_time() - began < 1  # tens of milliseconds; quadratic would take minutes


# ---- command sets --------------------------------------------------------------------------


def element(number: int, value: bytes) -> bytes:
    return pack("<HHI", 0, number, len(value)) + value


NUMBERS = [0x0, 0x2, 0x3, 0x100, 0x110, 0x120, 0x700, 0x800, 0x900, 0x1000, 0x1001, 0x1030]
SHORTS = st.sampled_from([0, 1, 0x30, 0x101, 0xFFF, 0x8001, 7]).map(lambda n: pack("<H", n))
ELEMENTS = st.builds(
    element, st.sampled_from(NUMBERS), st.one_of(SHORTS, UIDS, st.binary(max_size=5))
)
STORES = st.builds(
    lambda group, sop_class, field, data_set_type, instance: (
        element(0, group)
        + element(0x2, sop_class)
        + element(0x100, field)
        + element(0x110, b"\7\0")
        + element(0x700, b"\0\0")
        + element(0x800, data_set_type)
        + element(0x1000, instance)
    ),
    st.binary(min_size=4, max_size=4),
    UIDS,
    SHORTS,
    SHORTS,
    UIDS,
)
COMMANDS = st.one_of(STORES, st.lists(ELEMENTS, max_size=10).map(b"".join), st.binary(max_size=80))


def outcome(decoder: Callable[[bytes], Command], command: bytes) -> Command | str:
    try:
        decoded = decoder(command)
    except PeerError as error:
        assert error.reason == 6  # noqa: PT017
        return str(error)
    assert encode_unsupported_response(decoded)
    return decoded


@settings(max_examples=400)
@given(COMMANDS)
def test_the_fast_path_reads_as_the_general_one(command: bytes) -> None:
    assert outcome(decode_command, command) == outcome(decode_general_command, command)


@given(STORES, st.data())
def test_damaged_commands(command: bytes, data: st.DataObject) -> None:
    damaged = bytearray(command)
    damaged[data.draw(st.integers(0, len(command) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    for spoiled in (bytes(damaged), cut):
        assert outcome(decode_command, spoiled) == outcome(decode_general_command, spoiled)


def test_the_most_elements_that_a_command_set_can_hold() -> None:
    command = element(0x100, b"\x30\0") + element(0x110, b"\1\0")
    command += element(0x5555, b"") * ((MAX_COMMAND_LENGTH - len(command)) // 8)
    began = process_time()
    assert outcome(decode_command, command) == Command(0x30, 1, 0, "", "", False)
    assert process_time() - began < 1
