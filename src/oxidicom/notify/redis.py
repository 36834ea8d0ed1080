"""Registrations to Redis, Valkey or DragonflyDB, as Celery's own client writes them there
(decision 33)."""

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

from oxidicom.certificates import client_context
from oxidicom.logevents import event, reason_of
from oxidicom.notify.celery_message import CeleryMessage, encode, our_origin
from oxidicom.ports import Registration
from oxidicom.redis_connection import ask, connection_to, greet, part

CONNECT_TIMEOUT: Final = 10.0
PUBLISH_TIMEOUT: Final = 30.0
"""From the call to the confirmation, connecting and those before it included."""

logger = logging.getLogger("oxidicom.redis")


def envelope(message: CeleryMessage) -> bytes:
    """What kombu's Redis transport keeps in a list: AMQP's properties, and their like.

    Its delivery tag is new each time: workers keep what they have taken under it, and two copies
    of one message must not be one there.
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
    """`url`: redis:// or rediss://, with login and number of the database. `ca`: PEM file of the
    certificates to trust instead of the system's. Safe for concurrent calls, which take turns on
    one connection: a push is one round trip, and there is one for each series."""

    def __init__(self, url: str, queue_name: str, ca: Path | None = None) -> None:
        self._url = url
        self._queue_name = queue_name
        self._ca = ca
        self._origin = our_origin()
        self._turn = asyncio.Lock()
        self._connection: Connection | None = None

    async def start(self) -> bool:
        """Connect. False (and a warning) if that fails now: the next `publish` tries again."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT), self._turn:
                await self._ready()
        except Exception as error:
            event(logger, logging.WARNING, "Redis broker unreachable", reason=reason_of(error))
            return False
        return True

    async def answers(self) -> None:
        """Connect if need be, and ask for nothing; raises what went wrong."""
        async with self._turn, asyncio.timeout(CONNECT_TIMEOUT):
            connection = await self._ready()
            try:
                await ask(connection, "PING")
            except BaseException:
                await self._drop()
                raise

    async def publish(self, registration: Registration, task_id: str) -> None:
        """Return once the broker has answered that the message is in the queue's list. Whether it
        keeps that through its own death is for its `appendonly` to say.

        Raises whatever went wrong (TimeoutError, OSError, RedisError); the message may have been
        taken all the same. The next call connects anew: a replica that refuses to write, say, is
        the primary no more, and another one answers to the name.
        """
        message = envelope(encode(registration, self._queue_name, task_id, self._origin))
        async with asyncio.timeout(PUBLISH_TIMEOUT), self._turn:
            connection = await self._ready()
            try:
                await ask(connection, "LPUSH", self._queue_name, message)
            except BaseException:
                await self._drop()
                raise

    async def close(self) -> None:
        async with self._turn:
            connection, self._connection = self._connection, None
            if connection is not None:
                await part(connection)

    async def _ready(self) -> Connection:
        """A connection that nobody else uses; ours must be the turn."""
        if self._connection is not None and await _is_silent(self._connection):
            return self._connection
        await self._drop()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                context = None
                if urlsplit(self._url).scheme == "rediss":
                    context = await asyncio.to_thread(client_context, self._ca)
                self._connection = connection_to(self._url, context)
                await greet(self._connection)
        except BaseException:
            await self._drop()
            raise
        return self._connection

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                await connection.disconnect(nowait=True)


async def _is_silent(connection: Connection) -> bool:
    """A server that speaks without being asked is closing the connection."""
    try:
        return not await connection.can_read_destructive()
    except RedisError:
        return False
