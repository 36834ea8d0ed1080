"""A look at CUBE's queue in Redis, Valkey or DragonflyDB."""

from __future__ import annotations

import ssl

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

from oxidicom.cli.probes import Server, explain_connection_error
from oxidicom.redis_connection import ask, connection_to, greet, part


class NotAListError(Exception):
    """A key of the queue's name has something else in it."""


async def look(url: str, queue_name: str, context: ssl.SSLContext | None) -> str:
    connection = connection_to(url, context)
    try:
        await greet(connection)
        await _rehearse(connection, queue_name)
        try:
            kind = await ask(connection, "TYPE", queue_name)
            if kind not in (b"list", b"none"):
                raise NotAListError(queue_name)
            length = await ask(connection, "LLEN", queue_name)
        except NoPermissionError:
            return f"queue {queue_name} may be written by this user, but not looked at"
        return f"queue {queue_name} has {length} messages"
    finally:
        await part(connection)


async def _rehearse(connection: Connection, queue_name: str) -> None:
    """A push that is never done: the server looks at permissions, memory and role when a command
    enters a transaction, and this one is discarded."""
    try:
        await ask(connection, "MULTI")
    except NoPermissionError:
        return
    await ask(connection, "LPUSH", queue_name, "")
    await ask(connection, "DISCARD")


def trouble(error: Exception, server: Server) -> str:
    where, _, variable = server
    if isinstance(error, RedisError):
        told = _refusal(error, where, variable)
        if told is not None:
            return told
    if isinstance(error, NotAListError):
        return (
            f"the key {error} at {where} is not a list, so no queue: correct OXIDICOM_QUEUE_NAME or"
            f" the number of the database in {variable}"
        )
    return explain_connection_error(error, server)


def _refusal(error: RedisError, where: str, variable: str) -> str | None:
    """The server's own, in words; None if it gave none that we know."""
    text = str(error).lower()
    match error:
        case AuthenticationError() if "required" in text:
            return f"{where} wants a password: write redis://user:password@host in {variable}"
        case AuthenticationError() if "without any password" in text:
            return f"{where} knows no password: take it out of {variable}, or set one there"
        case AuthenticationError():
            return f"{where} refuses this user or password: correct {variable}"
        case NoPermissionError():
            return (
                f"{where} denies this user the queue: correct OXIDICOM_QUEUE_NAME, or have the"
                " broker's administrator grant the user LPUSH on it"
            )
        case BusyLoadingError():
            return f"{where} is still loading its data: wait, and check again"
        case ReadOnlyError():
            return f"{where} is a replica and takes no writes: name the primary in {variable}"
        case OutOfMemoryError():
            return f"{where} has no memory left: raise its maxmemory, or see why nobody consumes"
        case MovedError() | ClusterCrossSlotError() | ClusterDownError():
            return f"{where} is a Redis Cluster, which Celery cannot use: correct {variable}"
    for words, advice in _ADVICE.items():
        if words in text:
            return f"{where} {advice.format(variable=variable)}"
    return None


_ADVICE = {
    "db index": "has no such database: correct the number in {variable}",
    "misconf": "takes no writes, as it cannot save to its disk: see its log",
    "max number of clients": "has no room for one more client: raise its maxclients",
    "protected mode": "lets nobody in from another machine: set a password there and in {variable}",
    "unknown command": "does not allow the commands of a queue: have its administrator allow LPUSH",
}
