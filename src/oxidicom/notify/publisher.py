"""The interface between the outbox relay and the transports that bring registrations to CUBE."""

from __future__ import annotations

from typing import Protocol

from oxidicom.errors import OxidicomError
from oxidicom.ports import Registration


class RegistrationRefusedError(OxidicomError):
    """The receiving side will never accept this registration, but may accept others."""


class Publisher(Protocol):
    """One transport: AMQP, Redis or HTTP."""

    async def publish(self, registration: Registration, task_id: str) -> None:
        """Send the registration, and return once the receiving side has accepted it.

        Raises RegistrationRefusedError if it never will. After any other exception the relay
        repeats the call later with the same `task_id`, a UUID.
        """

    async def close(self) -> None:
        """Close the connections; return within a few seconds even if the other side hangs."""


class BrokerPublisher(Publisher, Protocol):
    """A transport to CUBE's Celery workers through a message broker: AMQP or Redis."""

    async def start(self) -> bool:
        """Connect, and return whether that succeeded; a failure is logged as a warning.

        After a failure, the next `publish` tries again.
        """

    async def answers(self) -> None:
        """Check that the broker answers; raise an error within a few seconds if it does not."""
