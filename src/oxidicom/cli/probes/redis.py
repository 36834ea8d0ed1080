"""Probe of CUBE's queue in Redis, Valkey or DragonflyDB."""

from __future__ import annotations

import ssl
from typing import Final

from redis.asyncio import Connection
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterCrossSlotError,
    ClusterDownError,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
)

from oxidicom.cli.probes import QueueProbe, Server, explain_connection_error
from oxidicom.redis_connection import connection_to, disconnect, execute, open_connection


class NotAListError(Exception):
    """The key with the queue's name holds a value that is not a list. The text is the key."""


async def _describe_queue(url: str, queue_name: str, context: ssl.SSLContext | None) -> str:
    connection = connection_to(url, context)
    try:
        await open_connection(connection)
        await _rehearse(connection, queue_name)
        try:
            kind = await execute(connection, "TYPE", queue_name)
            if kind not in (b"list", b"none"):
                raise NotAListError(queue_name)
            length = await execute(connection, "LLEN", queue_name)
        except NoPermissionError:
            return f"queue {queue_name} may be written by this user, but not looked at"
        return f"queue {queue_name} has {length} messages"
    finally:
        await disconnect(connection)


async def _rehearse(connection: Connection, queue_name: str) -> None:
    """Add an LPUSH to a transaction and discard the transaction.

    The server checks permissions, memory and its role as primary when a command is added. Raises
    RedisError if it would refuse an LPUSH. Tests nothing if the user may not use transactions.
    """
    try:
        await execute(connection, "MULTI")
    except NoPermissionError:
        return
    await execute(connection, "LPUSH", queue_name, "")
    await execute(connection, "DISCARD")


def _explain(error: Exception, server: Server) -> str:
    where, _, variable = server
    if isinstance(error, RedisError):
        refusal = _refusal(error, where, variable)
        if refusal is not None:
            return refusal
    if isinstance(error, NotAListError):
        return (
            f"the key {error} at {where} is not a list, so no queue: correct OXIDICOM_QUEUE_NAME or"
            f" the number of the database in {variable}"
        )
    return explain_connection_error(error, server)


PROBE: Final = QueueProbe(_describe_queue, _explain)


def _refusal(error: RedisError, where: str, variable: str) -> str | None:
    """Return what the server's error means and what to do; None if the error is not known."""
    text = str(error).lower()
    match error:
        case AuthenticationError() if "required" in text:
            return f"{where} wants a password: write redis://user:password@host in {variable}"
        case AuthenticationError() if "without any password" in text:
            return f"{where} has no password: remove it from {variable}, or set one on the server"
        case AuthenticationError():
            return f"{where} refuses this user or password: correct {variable}"
        case NoPermissionError():
            return (
                f"{where} does not let this user use the queue: correct OXIDICOM_QUEUE_NAME, or"
                " have the broker's administrator grant the user LPUSH on it"
            )
        case BusyLoadingError():
            return f"{where} is still loading its data: wait, and check again"
        case ReadOnlyError():
            return f"{where} is a replica and takes no writes: name the primary in {variable}"
        case OutOfMemoryError():
            return (
                f"{where} has no memory left: raise its maxmemory, or check why no worker consumes"
            )
        case MovedError() | ClusterCrossSlotError() | ClusterDownError():
            return f"{where} is a Redis Cluster, which Celery cannot use: correct {variable}"
    for words, advice in _ADVICE.items():
        if words in text:
            return f"{where} {advice.format(variable=variable)}"
    return None


_ADVICE: Final = {
    "db index": "has no such database: correct the number in {variable}",
    "misconf": "takes no writes, as it cannot save to its disk: see its log",
    "max number of clients": "has no room for one more client: raise its maxclients",
    "protected mode": "refuses other machines: set a password there and in {variable}",
    "unknown command": "does not allow the commands of a queue: have its administrator allow LPUSH",
}
