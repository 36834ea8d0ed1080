"""Could progress be told?"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import ssl
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, urlsplit

from oxidicom.cli.probes import (
    LIMIT,
    CertificatesError,
    Finding,
    Server,
    Verdict,
    client_context,
    connection_trouble,
)
from oxidicom.settings import Settings

if TYPE_CHECKING:
    from nats.aio.client import Client

_VARIABLE: Final = "OXIDICOM_NATS_ADDRESS"
_PORT: Final = 4222
_CLOSE_LIMIT: Final = 0.5


def probe_nats(settings: Settings) -> list[Finding]:
    if settings.nats_address is None:
        text = f"nobody is told of progress; to tell it, set {_VARIABLE}"
        return [Finding("NATS", Verdict.NOT_SET, text)]
    logging.getLogger("nats").addHandler(logging.NullHandler())  # the finding says it
    return [
        _probe(address.strip(), settings)
        for address in settings.nats_address.split(",")
        if address.strip()
    ]


def _probe(address: str, settings: Settings) -> Finding:
    url = urlsplit(address if "://" in address else f"nats://{address}")
    server = Server(f"{url.hostname}:{url.port or _PORT}", "NATS", _VARIABLE)
    try:
        text = asyncio.run(_look(url, client_context(settings)))
    except Exception as error:
        return Finding("NATS", Verdict.FAULT, _trouble(error, server))
    return Finding("NATS", Verdict.OK, f"{server.where} lets us in; {text}")


async def _look(url: SplitResult, context: ssl.SSLContext) -> str:
    from nats.aio.client import Client  # late, like all that only one command needs

    async def on_error(error: Exception) -> None:
        raise error  # or the library would try again

    client = Client()
    try:
        async with asyncio.timeout(LIMIT):
            if url.scheme == "tls" and not await _insists_on_tls(url):
                raise _PlainServerError
            await client.connect(
                url.geturl(),
                connect_timeout=int(LIMIT),
                allow_reconnect=False,
                error_cb=on_error,
                tls=context,
                verbose=True,  # it is asked whether it accepts us before we say more
            )
        if not client.is_connected:  # it hung up, which the library does not notice here
            raise ConnectionResetError
        version = client.connected_server_version
        return f"server version {version.major}.{version.minor}.{version.patch}"
    finally:
        await _close(client)


async def _close(client: Client) -> None:
    """The library waits for ever for the end of a connection whose TLS handshake failed."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(_CLOSE_LIMIT):
            await client.close()


async def _insists_on_tls(url: SplitResult) -> bool:
    """The library goes on without TLS, password and all, where the server's INFO does not ask."""
    reader, writer = await asyncio.open_connection(url.hostname, url.port or _PORT)
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
    """It would have taken our password in the clear."""


def _trouble(error: Exception, server: Server) -> str:
    if isinstance(error, CertificatesError):
        return str(error)
    if isinstance(error, _PlainServerError):
        return (
            f"{server.where} does not insist on TLS: have it do so, or write nats:// in"
            f" {_VARIABLE} if that is meant"
        )
    said = str(error).lower()
    if "authorization" in said or "authentication" in said:
        return f"{server.where} refuses this user, password or token: correct {_VARIABLE}"
    return connection_trouble(error, server)
