"""Reads Celery messages off a queue of RabbitMQ as they are, without Celery."""

from __future__ import annotations

import json
from types import TracebackType
from typing import Any, NamedTuple, Self

from kombu import Connection, Queue


class TaskMessage(NamedTuple):
    body: list[Any]
    """args, kwargs, embed"""
    headers: dict[str, Any]
    properties: dict[str, Any]

    @property
    def kwargs(self) -> dict[str, Any]:
        kwargs: dict[str, Any] = self.body[1]
        return kwargs


class TaskQueue:
    """`name` must have been declared; the receiver does that at start."""

    def __init__(self, url: str, name: str) -> None:
        self._connection = Connection(url)
        self._queue = Queue(name)

    def __enter__(self) -> Self:
        self._queue = self._queue(self._connection.default_channel)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._connection.close()

    def take_all(self) -> list[TaskMessage]:
        """All that is there now."""
        messages = []
        while (message := self._queue.get(no_ack=True)) is not None:
            properties = message.properties | message.delivery_info
            properties |= {
                "content_type": message.content_type,
                "content_encoding": message.content_encoding,
            }
            messages.append(TaskMessage(json.loads(message.body), message.headers, properties))
        return messages

    def declare_as_celery_does(self) -> None:
        """Durable; the broker refuses with PreconditionFailed if it exists with other arguments."""
        self._queue.queue_declare()
