"""Probe of CUBE's queue in RabbitMQ."""

from __future__ import annotations

import logging
import ssl
from typing import Final

import aio_pika
from aiormq.exceptions import (
    AuthenticationError,
    ChannelAccessRefused,
    ChannelNotFoundEntity,
    InvalidFrameError,
    ProbableAuthenticationError,
)

from oxidicom.cli.probes import QueueProbe, Server, explain_connection_error


async def _describe_queue(url: str, queue_name: str, context: ssl.SSLContext | None) -> str:
    for name in ("aio_pika", "aiormq"):  # suppress their logs: the finding reports the error
        logging.getLogger(name).addHandler(logging.NullHandler())
    connection = await aio_pika.connect(url, ssl_context=context)
    async with connection:
        channel = await connection.channel()
        try:
            queue = await channel.declare_queue(queue_name, passive=True)
        except ChannelNotFoundEntity:
            return f"queue {queue_name} does not exist yet; `serve` will declare it"
        found = queue.declaration_result
        return (
            f"queue {queue_name} has {found.message_count} messages and"
            f" {found.consumer_count} consumers"
        )


def _explain(error: Exception, server: Server) -> str:
    where, _, variable = server
    match error:
        case ProbableAuthenticationError() | AuthenticationError():
            return f"{where} refuses this user or password: correct {variable}"
        case InvalidFrameError() if "OpenOk" in str(error):  # the last answer of a login
            return f"{where} has no such virtual host for this user: correct {variable}"
        case ChannelAccessRefused():
            return (
                f"{where} does not let this user use the queue: correct OXIDICOM_QUEUE_NAME, or"
                " have the broker's administrator grant the user its permissions"
            )
    return explain_connection_error(error, server)


PROBE: Final = QueueProbe(_describe_queue, _explain)
