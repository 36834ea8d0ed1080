"""Agreements are remembered, and nothing is decided by memory that is decided anew each time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from oxidicom.errors import AssociationRejectedError, PeerError
from oxidicom.wire import negotiation_cache
from oxidicom.wire.items import AssociateRequest
from oxidicom.wire.negotiation import Policy
from oxidicom.wire.negotiation_cache import (
    MAX_CACHED_REQUEST_BYTES,
    MAX_CACHED_REQUESTS,
    Agreement,
    agree,
)
from tests.support import raw_peer as peer
from tests.support.raw_peer import Context

CONTEXT = Context(1, peer.CT_IMAGE_STORAGE, [peer.EXPLICIT])


@pytest.fixture(autouse=True)
def forgetful() -> Iterator[None]:
    negotiation_cache._agreements.clear()
    yield
    negotiation_cache._agreements.clear()


def body(calling: bytes = b"A", user_items: bytes = b"", contexts: int = 1) -> bytes:
    proposed = [CONTEXT._replace(id=2 * n + 1) for n in range(contexts)]
    return peer.associate_rq(proposed, calling=calling, user_items=user_items)[6:]


def agreed(request: bytes, policy: Policy | None = None) -> Agreement:
    return agree(request, policy or Policy(), lambda request: None)


def test_the_same_request_is_agreed_with_once() -> None:
    first = agreed(body())
    assert agreed(bytes(bytearray(body()))) is first
    assert first.request.calling_ae_title == "A"
    assert set(first.negotiated.contexts) == {1}
    assert first.associate_ac[0] == 2


def test_another_request_or_policy_is_another_agreement() -> None:
    first = agreed(body())
    assert agreed(body(b"B")).request.calling_ae_title == "B"
    strict = agreed(body(), Policy(uncompressed_only=True, max_pdu_length=4096))
    assert strict is not first
    assert strict.associate_ac != first.associate_ac


def test_admission_is_decided_for_every_request() -> None:
    asked: list[str] = []

    def admit(request: AssociateRequest) -> None:
        asked.append(request.calling_ae_title)
        if len(asked) == 2:
            raise AssociationRejectedError(2, 3, 2, "full")

    agree(body(), Policy(), admit)
    with pytest.raises(AssociationRejectedError):
        agree(body(), Policy(), admit)
    agree(body(), Policy(), admit)
    assert asked == ["A"] * 3


def test_what_is_refused_is_not_remembered() -> None:
    with pytest.raises(AssociationRejectedError):
        agreed(body(), Policy(allowed_calling=frozenset({"B"})))
    with pytest.raises(PeerError):
        agreed(b"\0")
    assert not negotiation_cache._agreements


def test_memory_is_bounded_and_the_oldest_goes() -> None:
    first = agreed(body(b"0"))
    for n in range(1, MAX_CACHED_REQUESTS):
        agreed(body(b"%d" % n))
    assert agreed(body(b"0")) is first
    agreed(body(b"one more"))
    assert len(negotiation_cache._agreements) == MAX_CACHED_REQUESTS
    assert agreed(body(b"0")) is not first
    long = body(user_items=peer.item(0x57, bytes(MAX_CACHED_REQUEST_BYTES)))
    assert agreed(long) is not agreed(long)


def test_passwords_are_not_kept() -> None:
    identity = bytes((2, 0)) + b"\0\4user\0\6secret"
    request = body(user_items=peer.item(0x58, identity))
    assert agreed(request).request.user.identity is not None
    assert not negotiation_cache._agreements
