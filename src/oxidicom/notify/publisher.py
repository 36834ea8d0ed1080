"""What the outbox relay needs of a transport that takes registrations to CUBE."""

from __future__ import annotations

from typing import Protocol

from oxidicom.errors import OxidicomError
from oxidicom.ports import Registration


class RegistrationRefusedError(OxidicomError):
    """This registration will never be accepted; others may be."""


class Publisher(Protocol):
    """One transport: AMQP, Redis or HTTP."""

    async def publish(self, registration: Registration, task_id: str) -> None:
        """Return once the receiving side has taken responsibility for the registration.

        Raises RegistrationRefusedError if it never will. After any other exception the call is
        repeated later with the same `task_id`, a UUID.
        """

    async def close(self) -> None:
        """Close the connections within a few seconds, whatever the other side does."""


class BrokerPublisher(Publisher, Protocol):
    """A transport to CUBE's Celery workers by way of a message broker."""

    async def start(self) -> bool:
        """Connect; return False, after a warning, if that fails: `publish` tries again."""

    async def answers(self) -> None:
        """Return if the broker answers within a few seconds; raises the reason if not."""
