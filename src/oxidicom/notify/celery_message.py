"""Encodes a registration as a Celery task message of protocol 2 (decision 33)."""

from __future__ import annotations

import os
import socket
from typing import Any, Final, NamedTuple

import msgspec

from oxidicom.notify.cube_fields import cube_fields
from oxidicom.ports import Registration

TASK_NAME: Final = "pacsfiles.tasks.register_pacs_series"
"""Name of the Celery task in CUBE that registers a series."""

_EMBED: Final = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
"""Third part of the body: tasks for Celery to run after this one. There are none."""


class CeleryMessage(NamedTuple):
    """A task message. It is the same for AMQP and Redis, which wrap it differently."""

    body: bytes
    """JSON list of positional arguments, keyword arguments and `_EMBED`, in UTF-8."""
    headers: dict[str, Any]
    """Headers of Celery's protocol 2, by name."""
    properties: dict[str, Any]
    """Properties of AMQP's basic class (AMQP 0-9-1 4.2.6.1) by name, and `routing_key`."""


def encode(
    registration: Registration, queue: str, task_id: str, origin: str | None = None
) -> CeleryMessage:
    """Return the task message of a registration.

    `task_id` is a UUID, the same for every attempt to deliver the same registration. `origin`
    identifies the sender, by default `client_origin()`. The routing key is `queue` and not Celery's
    default: a Celery worker that shuts down returns prefetched messages by routing key, and CUBE
    has no consumer of the default queue `celery`.
    """
    fields = cube_fields(registration)
    # Celery workers log kwargsrepr, so it must not contain patient data.
    shown = {keyword: fields[keyword] for keyword in ("pacs_name", "SeriesInstanceUID", "ndicom")}
    headers: dict[str, Any] = {
        "lang": "py",
        "task": TASK_NAME,
        "id": task_id,
        "root_id": task_id,
        "parent_id": None,
        "group": None,
        "shadow": None,
        "eta": None,
        "expires": None,
        "retries": 0,
        "timelimit": [None, None],
        "argsrepr": "()",
        "kwargsrepr": repr(shown),
        "origin": origin if origin is not None else client_origin(),
    }
    if registration.traceparent is not None:
        # OpenTelemetry's instrumentation of Celery reads the trace context from this header.
        headers["traceparent"] = registration.traceparent
    properties: dict[str, Any] = {
        "correlation_id": task_id,
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "priority": 0,
        "delivery_mode": 2,
        "routing_key": queue,
    }
    return CeleryMessage(msgspec.json.encode([[], fields, _EMBED]), headers, properties)


def client_origin() -> str:
    """Return the sender's name in the form of Celery's own client: `gen<pid>@<host>`."""
    return f"gen{os.getpid()}@{socket.gethostname()}"
