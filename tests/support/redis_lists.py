"""Reads and writes the lists of a Redis queue without Celery."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from redis import Redis
from redis.exceptions import RedisError

from oxidicom.notify.redis import RedisPublisher
from tests.support.brokers import RedisServer

LINE_ERRORS = (OSError, RedisError)


class Envelope(NamedTuple):
    """One entry of a list, as kombu's Redis transport writes it."""

    whole: dict[str, Any]

    @property
    def body(self) -> list[Any]:
        """args, kwargs, embed"""
        body: list[Any] = json.loads(base64.b64decode(self.whole["body"], validate=True))
        return body

    @property
    def kwargs(self) -> dict[str, Any]:
        kwargs: dict[str, Any] = self.body[1]
        return kwargs

    @property
    def task_id(self) -> str:
        task_id: str = self.whole["headers"]["id"]
        return task_id


def admin(server: RedisServer, database: int = 0, **options: Any) -> Redis:
    """A client of the library's own, to be used as a context."""
    return Redis("127.0.0.1", server.port, database, **options)


def envelopes(server: RedisServer, queue: str, database: int = 0) -> list[Envelope]:
    """In the order in which workers take them; they stay."""
    with admin(server, database) as client:
        found: Any = client.lrange(queue, 0, -1)
    return [Envelope(json.loads(each)) for each in reversed(found)]


def lists(server: RedisServer) -> dict[str, int]:
    """The length of every list there is, by key."""
    with admin(server) as client:
        keys: Any = client.keys()
        return {key.decode(): _int(client.llen(key)) for key in keys if client.type(key) == b"list"}


def _int(answer: Any) -> int:
    assert isinstance(answer, int)
    return answer


def counts(server: RedisServer, queue: str) -> list[int]:
    return [each.kwargs["ndicom"] for each in envelopes(server, queue)]


@asynccontextmanager
async def publisher(url: str, queue: str, ca: Path | None = None) -> AsyncIterator[RedisPublisher]:
    ours = RedisPublisher(url, queue, ca)
    try:
        yield ours
    finally:
        await ours.close()
