"""What was agreed with a request, remembered: some senders open an association for every instance,
with the same hundred presentation contexts each time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from oxidicom.wire.items import AssociateRequest, decode_associate_rq, encode_associate_ac
from oxidicom.wire.negotiation import Negotiated, Policy, negotiate

REMEMBERED: Final = 16
"""Requests; a hospital's senders are of a few kinds."""

REMEMBERED_BYTES: Final = 32 * 1024
"""Of one request: 128 contexts of real senders have some 20 KiB."""


class Agreement(NamedTuple):
    request: AssociateRequest
    negotiated: Negotiated
    associate_ac: bytes
    """The whole PDU."""


_remembered: dict[tuple[bytes, Policy], Agreement] = {}


def agree(body: bytes, policy: Policy, admit: Callable[[AssociateRequest], None]) -> Agreement:
    """Decode an A-ASSOCIATE-RQ, ask `admit`, and negotiate; or remember what came of it.

    Raises PeerError for a request that is malformed, AssociationRejectedError for one that is not
    acceptable, and whatever `admit` raises, which is asked every time.
    """
    key = (body, policy)
    known = _remembered.get(key)
    if known is not None:
        admit(known.request)
        return known
    request = decode_associate_rq(body)
    admit(request)
    negotiated = negotiate(request, policy)
    agreement = Agreement(request, negotiated, encode_associate_ac(request, negotiated.answer))
    # Nobody's password is kept.
    if len(body) <= REMEMBERED_BYTES and request.user.identity is None:
        if len(_remembered) >= REMEMBERED:
            del _remembered[next(iter(_remembered))]
        _remembered[key] = agreement
    return agreement
