"""Probe of the NATS servers that progress is published to."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import ssl
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, urlsplit

from oxidicom.cli.probes import (
    PROBE_LIMIT_S,
    CertificatesError,
    Finding,
    Server,
    Verdict,
    client_context,
    explain_connection_error,
)
from oxidicom.settings import Settings

if TYPE_CHECKING:
    from nats.aio.client import Client

_VARIABLE: Final = "OXIDICOM_NATS_ADDRESS"
_DEFAULT_PORT: Final = 4222
_CLOSE_LIMIT_S: Final = 0.5
"""Time limit in seconds to close the connection."""


def probe_nats(settings: Settings) -> list[Finding]:
    """Log in to each server that OXIDICOM_NATS_ADDRESS names; return a finding for each."""
    if settings.nats_address is None:
        text = f"no progress is published; to publish it, set {_VARIABLE}"
        return [Finding("NATS", Verdict.NOT_SET, text)]
    # The finding reports what the library would log.
    logging.getLogger("nats").addHandler(logging.NullHandler())
    return [
        _probe(address.strip(), settings)
        for address in settings.nats_address.split(",")
        if address.strip()
    ]


def _probe(address: str, settings: Settings) -> Finding:
    url = urlsplit(address if "://" in address else f"nats://{address}")
    server = Server(f"{url.hostname}:{url.port or _DEFAULT_PORT}", "NATS", _VARIABLE)
    try:
        text = asyncio.run(_query(url, client_context(settings)))
    except Exception as error:
        return Finding("NATS", Verdict.FAULT, _explain(error, server))
    return Finding("NATS", Verdict.OK, f"{server.where} accepts our login; {text}")


async def _query(url: SplitResult, context: ssl.SSLContext) -> str:
    from nats.aio.client import Client  # imported late, because only this probe needs it

    async def on_error(error: Exception) -> None:
        raise error  # otherwise the library would try again

    client = Client()
    try:
        async with asyncio.timeout(PROBE_LIMIT_S):
            if url.scheme == "tls" and not await _insists_on_tls(url):
                raise _PlainServerError
            await client.connect(
                url.geturl(),
                connect_timeout=int(PROBE_LIMIT_S),
                allow_reconnect=False,
                error_cb=on_error,
                tls=context,
                verbose=True,  # the server confirms the login before anything else
            )
        if not client.is_connected:  # closed by the server; the library raises nothing
            raise ConnectionResetError
        version = client.connected_server_version
        return f"server version {version.major}.{version.minor}.{version.patch}"
    finally:
        await _close(client)


async def _close(client: Client) -> None:
    """Close the connection, within a time limit and without raising errors.

    After a failed TLS handshake the library would never return.
    """
    with contextlib.suppress(Exception):
        async with asyncio.timeout(_CLOSE_LIMIT_S):
            await client.close()


async def _insists_on_tls(url: SplitResult) -> bool:
    """Return whether the server's INFO message requires TLS.

    If it does not, the library would send the password without TLS, in spite of a tls:// URL.
    Raises OSError, or ValueError if the server does not speak NATS.
    """
    reader, writer = await asyncio.open_connection(url.hostname, url.port or _DEFAULT_PORT)
    try:
        operation, _, info = (await reader.readline()).partition(b" ")
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    if operation != b"INFO":
        raise ValueError
    return json.loads(info).get("tls_required") is True


class _PlainServerError(Exception):
    """The server does not require TLS, although its URL begins with tls://."""


def _explain(error: Exception, server: Server) -> str:
    if isinstance(error, CertificatesError):
        return str(error)
    if isinstance(error, _PlainServerError):
        return (
            f"{server.where} does not require TLS: configure it to, or write nats:// in"
            f" {_VARIABLE} if TLS is not wanted"
        )
    text = str(error).lower()
    if "authorization" in text or "authentication" in text:
        return f"{server.where} refuses this user, password or token: correct {_VARIABLE}"
    return explain_connection_error(error, server)
