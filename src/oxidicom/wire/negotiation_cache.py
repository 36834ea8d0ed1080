"""Caches the answers to A-ASSOCIATE-RQs, keyed by the bytes of the request and the policy.

Some senders open an association for every instance, with the same hundred presentation contexts
each time.
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
    """The whole PDU."""


_agreements: dict[tuple[bytes, Policy], Agreement] = {}


def agree(body: bytes, policy: Policy, admit: Callable[[AssociateRequest], None]) -> Agreement:
    """Decode an A-ASSOCIATE-RQ, call `admit`, and negotiate; or return the cached answer.

    Raises PeerError for a request that is malformed, AssociationRejectedError for one that is not
    acceptable, and whatever `admit` raises, which is called every time.
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
    # A request with a user identity holds a password, and is not kept.
    if len(body) <= MAX_CACHED_REQUEST_BYTES and request.user.identity is None:
        if len(_agreements) >= MAX_CACHED_REQUESTS:
            del _agreements[next(iter(_agreements))]
        _agreements[key] = agreement
    return agreement
