"""Connections to Redis, Valkey or DragonflyDB.

Import this module only if such a broker is configured, because its client library takes time and
memory to import.
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

REDIS_PORT: Final = 6379
REDIS_CLOSE_TIMEOUT_S: Final = 2.0
"""Seconds to wait for a connection to close."""

_KEEP_ALIVE_OPTIONS: Final = {
    socket.TCP_KEEPIDLE: 20,
    socket.TCP_KEEPINTVL: 10,
    socket.TCP_KEEPCNT: 3,
}
"""TCP keep-alive: seconds of idle time, seconds between probes, number of probes. Registrations may
be hours apart, and firewalls drop idle connections."""


def connection_to(url: str, context: SSLContext | None) -> Connection:
    """Return a connection to the server of `url`, not open yet.

    The query of `url` is ignored: the library would let it turn verification of TLS off. `context`
    is required for the scheme rediss.
    """
    parts = urlsplit(url)
    given: dict[str, Any] = {
        "host": parts.hostname,
        "port": parts.port or REDIS_PORT,
        "username": unquote(parts.username) if parts.username else None,
        "password": unquote(parts.password) if parts.password else None,
        "db": int(parts.path.strip("/") or 0),
        "socket_keepalive": True,
        "socket_keepalive_options": _KEEP_ALIVE_OPTIONS,
    }
    if parts.scheme != "rediss":
        return Connection(**given)
    connection = SSLConnection(ssl_cert_reqs="required", ssl_check_hostname=True, **given)
    connection.ssl_context.context = context
    return connection


async def open_connection(connection: Connection) -> None:
    """Connect, log in, select the database, and return once the server has answered.

    The answer is needed to detect a server that hangs: such a server still accepts connections, and
    executes later the commands that it has received. Raises RedisError or ConnectionError.
    """
    try:
        await connection.connect()
    except ResponseError as error:
        raise _without_arguments(error) from None
    try:
        answer = await execute(connection, "PING")
    except NoPermissionError:
        return  # the server answers, and this user needs no other command than LPUSH
    if answer != b"PONG":
        raise ConnectionError("it does not answer as Redis does")


async def execute(connection: Connection, *command: str | bytes) -> object:
    """Send one command and return its answer.

    Raises RedisError. After an error or a cancellation the connection must be closed.
    """
    try:
        await connection.send_command(*command)
        return await connection.read_response()
    except ResponseError as error:
        raise _without_arguments(error) from None


async def disconnect(connection: Connection) -> None:
    """Close the connection, waiting at most REDIS_CLOSE_TIMEOUT_S; errors are ignored."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(REDIS_CLOSE_TIMEOUT_S):
            await connection.disconnect()


def _without_arguments(error: ResponseError) -> ResponseError:
    """Return the error without the command's arguments, which may hold a password or patient data.

    Servers include the arguments in the error for an unknown command.
    """
    text, repeated, _ = str(error).partition(", with args beginning with")
    return ResponseError(text) if repeated else error
