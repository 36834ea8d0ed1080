"""Publisher of registrations to RabbitMQ, which confirms each of them (decision 33)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import Final

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import ChannelClosed, DeliveryError, PublishError
from yarl import URL

from oxidicom.cancellation import run_within
from oxidicom.certificates import client_context
from oxidicom.logevents import describe_client_error, event
from oxidicom.notify.celery_message import client_origin, encode
from oxidicom.ports import Registration

AMQP_CONNECT_TIMEOUT_S: Final = 10.0
"""Seconds to connect to the broker, log in and declare the queue."""
AMQP_PUBLISH_TIMEOUT_S: Final = 30.0
"""Seconds from the call of `publish` to the confirmation, connecting included."""
AMQP_CLOSE_TIMEOUT_S: Final = 2.0
"""Seconds for the broker to answer when the connection is closed."""
AMQP_HEARTBEAT_S: Final = 20
"""Seconds between heartbeats (AMQP 0-9-1 4.2.7)."""

logger = logging.getLogger("oxidicom.amqp")


class AmqpPublisher:
    """One connection to an AMQP broker; its methods may be called concurrently.

    `url` begins with amqp:// or amqps:// and contains credentials and virtual host. `ca` is a PEM
    file of the certificates to trust instead of the system's; None trusts the system's.
    """

    def __init__(self, url: str, queue_name: str, ca: Path | None = None) -> None:
        self._url = URL(url)
        self._queue_name = queue_name
        self._ca = ca
        self._origin = client_origin()
        self._connecting = asyncio.Lock()
        self._connection: AbstractConnection | None = None
        self._channel: AbstractChannel | None = None

    async def start(self) -> bool:
        """Connect, and declare the queue for Celery workers that start before the first message.

        Return True on success. Return False, after a warning is logged, if that fails; the next
        `publish` tries again.
        """
        try:
            async with asyncio.timeout(AMQP_CONNECT_TIMEOUT_S):
                await self._ready()
        except Exception as error:
            reason = describe_client_error(error)
            event(logger, logging.WARNING, "AMQP broker unreachable", reason=reason)
            return False
        return True

    async def answers(self) -> None:
        """Check that the broker opens a channel, after connecting if necessary.

        Raises TimeoutError, OSError, AMQPError or RuntimeError if it does not.
        """
        async with asyncio.timeout(AMQP_CONNECT_TIMEOUT_S):
            await self._ready()
            channel = await self._open_channel()
            await channel.close()

    async def publish(self, registration: Registration, task_id: str) -> None:
        """Publish the registration, and return once the broker has confirmed the message.

        The message is then on the broker's disk, provided that the queue is durable, as is one that
        this class declares. Raises TimeoutError, OSError, AMQPError or RuntimeError if no
        confirmation comes; the broker may have stored the message nevertheless. The next call
        connects again if necessary.
        """
        channel: AbstractChannel | None = None
        message = self._message(registration, task_id)
        try:
            async with asyncio.timeout(AMQP_PUBLISH_TIMEOUT_S):
                channel = await self._ready()
                try:
                    await self._publish(channel, message)
                except PublishError:
                    event(
                        logger,
                        logging.WARNING,
                        "queue was deleted; declared again",
                        queue=self._queue_name,
                    )
                    await self._declare()
                    await self._publish(channel, message)
        except DeliveryError:
            raise  # the message was returned or rejected (basic.nack); the connection still works
        except BaseException as error:
            if channel is not None:
                await self._disconnect(channel)
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and not (task and task.cancelling()):
                # Nothing has cancelled this task: aio-pika cancels the calls that are in progress
                # on a connection when it ends.
                raise ConnectionError("the AMQP connection ended before the confirmation") from None
            raise

    async def close(self) -> None:
        """Close the connection; return after AMQP_CLOSE_TIMEOUT_S + 0.5 seconds at the latest."""
        # A call that is connecting to a broker that hangs may hold the lock for longer than that.
        await run_within(self._disconnect(), AMQP_CLOSE_TIMEOUT_S + 0.5)

    def _message(self, registration: Registration, task_id: str) -> aio_pika.Message:
        body, headers, properties = encode(registration, self._queue_name, task_id, self._origin)
        return aio_pika.Message(
            body,
            headers=headers,
            message_id=task_id,
            correlation_id=properties["correlation_id"],
            content_type=properties["content_type"],
            content_encoding=properties["content_encoding"],
            priority=properties["priority"],
            delivery_mode=properties["delivery_mode"],
        )

    async def _publish(self, channel: AbstractChannel, message: aio_pika.Message) -> None:
        # The default exchange routes by queue name (AMQP 0-9-1 3.1.3.1).
        await channel.default_exchange.publish(message, self._queue_name, mandatory=True)

    async def _ready(self) -> AbstractChannel:
        """Return the open channel; connect and declare the queue if there is none.

        Raises TimeoutError, OSError, AMQPError or RuntimeError.
        """
        async with self._connecting:
            if self._channel is not None and not self._channel.is_closed:
                return self._channel
            await self._drop_connection()
            try:
                async with asyncio.timeout(AMQP_CONNECT_TIMEOUT_S):
                    self._connection = await self._connect()
                    await self._declare()
                    self._channel = await self._open_channel()
            except BaseException:
                await self._drop_connection()
                raise
            return self._channel

    async def _connect(self) -> AbstractConnection:
        context = None
        if self._url.scheme == "amqps":
            context = await asyncio.to_thread(client_context, self._ca)
        url = self._url.update_query(heartbeat=AMQP_HEARTBEAT_S, name="oxidicom")
        return await aio_pika.connect(url, ssl_context=context)

    async def _declare(self) -> None:
        # Uses its own channels: a refusal closes the channel, which would lose confirmations.
        try:
            await self._declare_once(durable=True)
        except ChannelClosed as error:
            # The operator has declared the queue with other arguments (a quorum queue, a length
            # limit), or this user may not declare queues.
            event(
                logger,
                logging.INFO,
                "queue exists with other arguments; used as it is",
                queue=self._queue_name,
                reason=describe_client_error(error),
            )
            await self._declare_once(passive=True)

    async def _declare_once(self, *, durable: bool = False, passive: bool = False) -> None:
        channel = await self._open_channel()
        try:
            await channel.declare_queue(self._queue_name, durable=durable, passive=passive)
        finally:
            await channel.close()

    async def _open_channel(self) -> AbstractChannel:
        if self._connection is None:
            raise ConnectionError("the AMQP connection was closed by another call")
        channel = self._connection.channel(publisher_confirms=True, on_return_raises=True)
        await channel.initialize()
        return channel

    async def _disconnect(self, broken: AbstractChannel | None = None) -> None:
        """Close the connection. With `broken`, close it only if `broken` is still its channel."""
        async with self._connecting:
            # Another call may have replaced the broken channel by now.
            if broken is None or broken is self._channel:
                await self._drop_connection()

    async def _drop_connection(self) -> None:
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            with contextlib.suppress(Exception):
                await run_within(connection.close(), AMQP_CLOSE_TIMEOUT_S)
