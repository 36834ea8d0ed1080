"""DIMSE services: how each kind of command is answered, with one file per service.

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
"""The services, by Command Field (0000,0100)."""

_RESPONSE: Final = 0x8000


def service_of(field: int, services: Mapping[int, Service] = SERVICES) -> Service:
    """Return the service for a Command Field; responses are unanswered, other requests refused."""
    service = services.get(field)
    if service is not None:
        return service
    return unanswered.SERVICE if field & _RESPONSE else refusal.SERVICE
