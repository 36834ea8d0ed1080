"""Caches the answers to A-ASSOCIATE-RQs, keyed by the bytes of the request and the policy.

Some senders open an association for every instance, and propose the same hundred presentation
contexts each time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from oxidicom.wire.items import AssociateRequest, decode_associate_rq, encode_associate_ac
from oxidicom.wire.negotiation import Negotiated, Policy, negotiate

MAX_CACHED_REQUESTS: Final = 16
"""Greatest number of cached requests; a hospital has few kinds of senders."""

MAX_CACHED_REQUEST_BYTES: Final = 32 * 1024
"""Greatest size in bytes of a cached request: 128 contexts of real senders have some 20 KiB."""


class Agreement(NamedTuple):
    """A request and its answer."""

    request: AssociateRequest
    negotiated: Negotiated
    associate_ac: bytes
    """The whole A-ASSOCIATE-AC PDU."""


_agreements: dict[tuple[bytes, Policy], Agreement] = {}


def agree(body: bytes, policy: Policy, admit: Callable[[AssociateRequest], None]) -> Agreement:
    """Decode an A-ASSOCIATE-RQ and negotiate, or return the cached result.

    `admit` is called every time, before the negotiation, and its exceptions propagate. Raises
    PeerError if the request is malformed, and AssociationRejectedError if it is not acceptable.
    """
    key = (body, policy)
    known = _agreements.get(key)
    if known is not None:
        admit(known.request)
        return known
    request = decode_associate_rq(body)
    admit(request)
    negotiated = negotiate(request, policy)
    agreement = Agreement(request, negotiated, encode_associate_ac(request, negotiated.answer))
    # The bytes of a request with a user identity may have a password, so they are not kept.
    if len(body) <= MAX_CACHED_REQUEST_BYTES and request.user.identity is None:
        if len(_agreements) >= MAX_CACHED_REQUESTS:
            del _agreements[next(iter(_agreements))]
        _agreements[key] = agreement
    return agreement
