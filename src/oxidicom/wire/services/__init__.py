"""DIMSE services, one per file. A service defines how a kind of command is answered.

To add a service, write a file like `verification` and add a line to SERVICES.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from oxidicom.constants import CommandField
from oxidicom.wire.services import refusal, storage, unanswered, verification
from oxidicom.wire.services.service import Service

SERVICES: Final[Mapping[int, Service]] = {
    CommandField.C_STORE_RQ: storage.SERVICE,
    CommandField.C_ECHO_RQ: verification.SERVICE,
    CommandField.C_CANCEL_RQ: unanswered.SERVICE,
}
"""The services that the acceptor provides, keyed by Command Field (0000,0100)."""

_RESPONSE: Final = 0x8000


def service_of(field: int, services: Mapping[int, Service] = SERVICES) -> Service:
    """Return the service for a Command Field.

    If `services` has none, responses are ignored (`unanswered`) and requests refused (`refusal`).
    """
    service = services.get(field)
    if service is not None:
        return service
    return unanswered.SERVICE if field & _RESPONSE else refusal.SERVICE
