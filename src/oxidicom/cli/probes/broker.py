"""Could registrations reach CUBE's queue?"""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import Final
from urllib.parse import urlsplit

from oxidicom.cli.probes import (
    LIMIT,
    Finding,
    NoCertificates,
    Server,
    Verdict,
    client_context,
    connection_trouble,
)
from oxidicom.settings import Settings

_VARIABLE: Final = "OXIDICOM_CELERY_BROKER"


def probe_broker(settings: Settings) -> list[Finding]:
    if settings.cube_url is not None:
        return []  # registrations go there
    if settings.broker is None:
        text = (
            f"registrations stay in the outbox on disk; to send them, set {_VARIABLE} or CHRIS_URL"
        )
        return [Finding("broker", Verdict.NOT_SET, text)]
    url = urlsplit(settings.broker)
    secure = url.scheme == "amqps"
    server = Server(
        f"{url.hostname}:{url.port or (5671 if secure else 5672)}", "AMQP 0-9-1", _VARIABLE
    )
    for name in ("aio_pika", "aiormq"):  # what they would log, the finding says
        logging.getLogger(name).addHandler(logging.NullHandler())
    try:
        context = client_context(settings) if secure else None
        text = asyncio.run(_look(settings, settings.broker, context))
    except Exception as error:
        return [Finding("broker", Verdict.FAULT, _trouble(error, server))]
    return [Finding("broker", Verdict.OK, f"{server.where} lets us in; {text}")]


async def _look(settings: Settings, url: str, context: ssl.SSLContext | None) -> str:
    import aio_pika  # late: it takes longer to import than all else here
    from aiormq.exceptions import ChannelNotFoundEntity

    async with asyncio.timeout(LIMIT):
        connection = await aio_pika.connect(url, ssl_context=context)
        async with connection:
            channel = await connection.channel()
            try:
                queue = await channel.declare_queue(settings.queue_name, passive=True)
            except ChannelNotFoundEntity:
                return f"queue {settings.queue_name} is not there yet, serve declares it"
            found = queue.declaration_result
            return (
                f"queue {settings.queue_name} has {found.message_count} messages and"
                f" {found.consumer_count} consumers"
            )


def _trouble(error: Exception, server: Server) -> str:
    from aiormq.exceptions import (
        AuthenticationError,
        ChannelAccessRefused,
        InvalidFrameError,
        ProbableAuthenticationError,
    )

    match error:
        case NoCertificates():
            return str(error)
        case ProbableAuthenticationError() | AuthenticationError():
            return f"{server.where} refuses this user or password: correct {_VARIABLE}"
        case InvalidFrameError() if "OpenOk" in str(error):  # the last answer before we are in
            return f"{server.where} has no such virtual host for this user: correct {_VARIABLE}"
        case ChannelAccessRefused():
            return (
                f"{server.where} denies this user the queue: correct OXIDICOM_QUEUE_NAME, or have"
                " the broker's administrator grant the user its permissions"
            )
    return connection_trouble(error, server)
