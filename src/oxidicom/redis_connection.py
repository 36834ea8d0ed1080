"""A connection to Redis, Valkey or DragonflyDB, as the URL says.

Imported only by those who have such a broker: the library takes time and memory to import.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from ssl import SSLContext
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from redis.asyncio import Connection, SSLConnection
from redis.exceptions import NoPermissionError, ResponseError

PORT: Final = 6379
CLOSE_TIMEOUT: Final = 2.0

_KEEP_ALIVE: Final = {socket.TCP_KEEPIDLE: 20, socket.TCP_KEEPINTVL: 10, socket.TCP_KEEPCNT: 3}
"""Seconds and probes: registrations may be hours apart, and firewalls forget the silent."""


def connection_to(url: str, context: SSLContext | None) -> Connection:
    """Not connected yet. `url`: one that the settings accept; nothing behind its `?` counts, for
    the library would let it turn verification off. `context`: where the scheme is rediss."""
    parts = urlsplit(url)
    given: dict[str, Any] = {
        "host": parts.hostname,
        "port": parts.port or PORT,
        "username": unquote(parts.username) if parts.username else None,
        "password": unquote(parts.password) if parts.password else None,
        "db": int(parts.path.strip("/") or 0),
        "socket_keepalive": True,
        "socket_keepalive_options": _KEEP_ALIVE,
    }
    if parts.scheme != "rediss":
        return Connection(**given)
    connection = SSLConnection(ssl_cert_reqs="required", ssl_check_hostname=True, **given)
    connection.ssl_context.context = context
    return connection


async def greet(connection: Connection) -> None:
    """Connect, log in, choose the database, and hear an answer.

    The answer matters: a server that hangs still accepts connections, and does one day what it was
    sent over each of them. Raises RedisError or ConnectionError.
    """
    try:
        await connection.connect()
    except ResponseError as error:
        raise _discreet(error) from None
    try:
        answer = await ask(connection, "PING")
    except NoPermissionError:
        return  # an answer, and all that this user needs is LPUSH
    if answer != b"PONG":
        raise ConnectionError("it does not answer as Redis does")


async def ask(connection: Connection, *command: str | bytes) -> object:
    """One command, one answer. Raises RedisError; after that, or if it is cancelled, the
    connection is of no use."""
    try:
        await connection.send_command(*command)
        return await connection.read_response()
    except ResponseError as error:
        raise _discreet(error) from None


async def part(connection: Connection) -> None:
    """Close it, in order if the server plays along in time."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(CLOSE_TIMEOUT):
            await connection.disconnect()


def _discreet(error: ResponseError) -> ResponseError:
    """Of a command it does not know a server repeats the arguments: a password, patient data."""
    text, repeated, _ = str(error).partition(", with args beginning with")
    return ResponseError(text) if repeated else error
