"""Publisher of registrations to Redis, Valkey or DragonflyDB (decision 33).

It writes messages in the form in which Celery's own client does.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import uuid
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec
from redis.asyncio import Connection
from redis.exceptions import RedisError

from oxidicom.cancellation import run_within
from oxidicom.certificates import client_context
from oxidicom.logevents import describe_client_error, event
from oxidicom.notify.celery_message import CeleryMessage, client_origin, encode
from oxidicom.ports import Registration
from oxidicom.redis_connection import (
    REDIS_CLOSE_TIMEOUT_S,
    connection_to,
    disconnect,
    execute,
    open_connection,
)

REDIS_CONNECT_TIMEOUT_S: Final = 10.0
"""Seconds to connect to the server and log in."""
REDIS_PUBLISH_TIMEOUT_S: Final = 30.0
"""Seconds from the call of `publish` to the answer, including connecting and waiting for earlier
calls."""

logger = logging.getLogger("oxidicom.redis")


def envelope(message: CeleryMessage) -> bytes:
    """Return the message as JSON in the form that kombu's Redis transport expects in a list.

    Each call creates another delivery tag: Celery workers store unacknowledged messages under it,
    and two copies of one message must not overwrite each other there.
    """
    properties = message.properties
    return msgspec.json.encode(
        {
            "body": base64.b64encode(message.body).decode(),
            "content-encoding": properties["content_encoding"],
            "content-type": properties["content_type"],
            "headers": message.headers,
            "properties": {
                "correlation_id": properties["correlation_id"],
                "reply_to": None,
                "delivery_mode": properties["delivery_mode"],
                "delivery_info": {"exchange": "", "routing_key": properties["routing_key"]},
                "priority": properties["priority"],
                "body_encoding": "base64",
                "delivery_tag": str(uuid.uuid4()),
            },
        }
    )


class RedisPublisher:
    """One connection to a Redis server; concurrent calls wait for each other.

    That is fast enough: a series takes one round trip. `url` begins with redis:// or rediss:// and
    contains login and database number. `ca` is a PEM file of the certificates to trust instead of
    the system's; None trusts the system's.
    """

    def __init__(self, url: str, queue_name: str, ca: Path | None = None) -> None:
        self._url = url
        self._queue_name = queue_name
        self._ca = ca
        self._origin = client_origin()
        self._lock = asyncio.Lock()
        self._connection: Connection | None = None

    async def start(self) -> bool:
        """Connect, and return whether that succeeded; a failure is logged as a warning.

        After a failure, the next `publish` tries again.
        """
        try:
            async with asyncio.timeout(REDIS_CONNECT_TIMEOUT_S), self._lock:
                await self._ready()
        except Exception as error:
            reason = describe_client_error(error)
            event(logger, logging.WARNING, "Redis broker unreachable", reason=reason)
            return False
        return True

    async def answers(self) -> None:
        """Check that the broker answers a PING, after connecting if necessary.

        Raises TimeoutError, OSError or RedisError if it does not.
        """
        async with self._lock, asyncio.timeout(REDIS_CONNECT_TIMEOUT_S):
            connection = await self._ready()
            try:
                await execute(connection, "PING")
            except BaseException:
                await self._drop()
                raise

    async def publish(self, registration: Registration, task_id: str) -> None:
        """Add the registration to the queue's list, and return once the broker has confirmed it.

        Whether the message survives a crash of the broker depends on its `appendonly` setting.
        Raises TimeoutError, OSError or RedisError; the broker may have stored the message
        nevertheless. The next call then connects again: a server that refuses to write may have
        become a replica, and its host name may now resolve to another primary.
        """
        message = envelope(encode(registration, self._queue_name, task_id, self._origin))
        async with asyncio.timeout(REDIS_PUBLISH_TIMEOUT_S), self._lock:
            connection = await self._ready()
            try:
                await execute(connection, "LPUSH", self._queue_name, message)
            except BaseException:
                await self._drop()
                raise

    async def close(self) -> None:
        """Close the connection; return after REDIS_CLOSE_TIMEOUT_S + 0.5 seconds at the latest."""
        # A call to a broker that hangs may hold the lock for longer than that.
        await run_within(self._close(), REDIS_CLOSE_TIMEOUT_S + 0.5)

    async def _close(self) -> None:
        async with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                await disconnect(connection)

    async def _ready(self) -> Connection:
        """Return an open connection, a new one if necessary. The caller holds the lock.

        Raises TimeoutError, OSError or RedisError.
        """
        if self._connection is not None and await _is_usable(self._connection):
            return self._connection
        await self._drop()
        try:
            async with asyncio.timeout(REDIS_CONNECT_TIMEOUT_S):
                context = None
                if urlsplit(self._url).scheme == "rediss":
                    context = await asyncio.to_thread(client_context, self._ca)
                self._connection = connection_to(self._url, context)
                await open_connection(self._connection)
        except BaseException:
            await self._drop()
            raise
        return self._connection

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                await connection.disconnect(nowait=True)


async def _is_usable(connection: Connection) -> bool:
    """Return whether the connection is open and has no unread data.

    Data that the server sends without a command means that it is closing the connection.
    """
    try:
        return not await connection.can_read_destructive()
    except RedisError:
        return False
