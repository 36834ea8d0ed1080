"""Could registrations reach CUBE's queue?"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Final
from urllib.parse import urlsplit

from oxidicom.cli.probes import (
    PROBE_LIMIT_S,
    CertificatesError,
    Finding,
    Server,
    Verdict,
    client_context,
)
from oxidicom.settings import Settings

_VARIABLE: Final = "OXIDICOM_CELERY_BROKER"

_LANGUAGES: Final = {
    "amqp": ("AMQP 0-9-1", 5672),
    "amqps": ("AMQP 0-9-1", 5671),
    "redis": ("Redis", 6379),
    "rediss": ("Redis", 6379),
}
"""And their usual ports, by scheme."""


def probe_broker(settings: Settings) -> list[Finding]:
    if settings.cube_url is not None:
        return []  # registrations go there
    if settings.broker is None:
        text = (
            f"registrations stay in the outbox on disk; to send them, set {_VARIABLE} or CHRIS_URL"
        )
        return [Finding("broker", Verdict.NOT_SET, text)]
    url = urlsplit(settings.broker)
    language, usual_port = _LANGUAGES[url.scheme]
    server = Server(f"{url.hostname}:{url.port or usual_port}", language, _VARIABLE)
    try:
        context = client_context(settings) if url.scheme in ("amqps", "rediss") else None
    except CertificatesError as error:
        return [Finding("broker", Verdict.FAULT, str(error))]
    # Imported late: each takes longer to import than all else here.
    if language == "Redis":
        from oxidicom.cli.probes.redis import look, trouble
    else:
        from oxidicom.cli.probes.amqp import look, trouble
    try:
        text = asyncio.run(_in_time(look(settings.broker, settings.queue_name, context)))
    except Exception as error:
        return [Finding("broker", Verdict.FAULT, trouble(error, server))]
    return [Finding("broker", Verdict.OK, f"{server.where} lets us in; {text}")]


async def _in_time(look: Coroutine[object, object, str]) -> str:
    async with asyncio.timeout(PROBE_LIMIT_S):
        return await look
