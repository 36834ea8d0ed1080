"""Probe of the broker that registrations are sent to, and of CUBE's queue in it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final
from urllib.parse import urlsplit

from oxidicom.cli.probes import (
    PROBE_LIMIT_S,
    CertificatesError,
    Finding,
    QueueProbe,
    Server,
    Verdict,
    client_context,
)
from oxidicom.settings import Settings
from oxidicom.settings.brokers import broker_of

_VARIABLE: Final = "OXIDICOM_CELERY_BROKER"


def probe_broker(settings: Settings) -> list[Finding]:
    """Return a finding on whether the broker and CUBE's queue can be used.

    Returns no finding if series are registered over HTTP instead.
    """
    if settings.registers_over_http:
        return []
    if settings.broker is None:
        text = (
            f"registrations stay in the outbox on disk; to send them, set {_VARIABLE} or CHRIS_URL"
        )
        return [Finding("broker", Verdict.NOT_SET, text)]
    url = urlsplit(settings.broker)
    broker = broker_of(settings.broker)
    server = Server(f"{url.hostname}:{url.port or broker.default_port}", broker.protocol, _VARIABLE)
    try:
        context = client_context(settings) if broker.tls else None
    except CertificatesError as error:
        return [Finding("broker", Verdict.FAULT, str(error))]
    probe: QueueProbe = broker.load_probe()
    try:
        call = probe.describe_queue(settings.broker, settings.queue_name, context)
        text = asyncio.run(_in_time(call))
    except Exception as error:
        return [Finding("broker", Verdict.FAULT, probe.explain(error, server))]
    return [Finding("broker", Verdict.OK, f"{server.where} accepts our login; {text}")]


async def _in_time(call: Awaitable[str]) -> str:
    async with asyncio.timeout(PROBE_LIMIT_S):
        return await call
