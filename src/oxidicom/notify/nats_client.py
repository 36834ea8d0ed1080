"""The NATS client of the LONK publisher and of the LONK subscriber."""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import nats.errors
from nats.aio.client import Client

from oxidicom.cancellation import run_within
from oxidicom.logevents import describe_client_error, event

NATS_PORT: Final = 4222
NATS_CONNECT_TIMEOUT_S: Final = 5
NATS_CLOSE_TIMEOUT_S: Final = 2.0
NATS_FIRST_RETRY_S: Final = 0.1
NATS_GREATEST_RETRY_S: Final = 2.0
NATS_PING_INTERVAL_S: Final = 10
"""Seconds between pings; after two unanswered ones nats-py closes the connection."""

logger = logging.getLogger("oxidicom.lonk")


class NatsClient(Client):
    """A client for one connection, which never falls back to plain text.

    Without this class nats-py sends its login in the clear to a `tls://` server that does not
    require TLS.
    """

    def _connect_command(self) -> bytes:
        server = self._current_server
        if server and server.uri.scheme == "tls" and not self._server_info.get("tls_required"):
            raise nats.errors.SecureConnRequiredError
        return super()._connect_command()

    async def connect_once(
        self, servers: list[str], name: str, tls: ssl.SSLContext, **options: Any
    ) -> None:
        """Connect to one of `servers`, which are URLs; the login is that of the first one.

        There is no reconnection: nats-py's own gives up on a refused login and does not run before
        the first connection. Raises what nats-py raises (nats.errors.Error, OSError).
        """
        url = urlsplit(servers[0])
        login: dict[str, Any] = {}
        if url.username and url.password is not None:
            login = {"user": unquote(url.username), "password": unquote(url.password)}
        elif url.username:
            login = {"token": unquote(url.username)}
        # In a task of its own, because nats-py may swallow the caller's cancellation.
        connected = await run_within(
            self.connect(
                servers=servers,
                name=name,
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                connect_timeout=NATS_CONNECT_TIMEOUT_S,
                ping_interval=NATS_PING_INTERVAL_S,
                tls=tls,
                **login,
                **options,
            ),
            None,
        )
        if not connected:
            raise nats.errors.ConnectionClosedError

    async def close_or_abort(self) -> None:
        """Close in order, or abort the connection after NATS_CLOSE_TIMEOUT_S; raises nothing.

        `close` waits until all is sent, and a server that hangs never takes it.
        """
        try:
            closed = await run_within(self.close(), NATS_CLOSE_TIMEOUT_S)
        except asyncio.CancelledError:
            self._abort()
            raise
        except Exception as error:
            reason = describe_client_error(error)
        else:
            if closed:
                return
            reason = "TimeoutError"
        event(logger, logging.DEBUG, "NATS connection did not close", reason=reason)
        self._abort()

    def _abort(self) -> None:
        writer: asyncio.StreamWriter | None = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()


def server_urls(address: str) -> list[str]:
    """Return the URLs in `address`, which has commas between them; scheme and port are optional."""
    return [_server_url(each.strip()) for each in address.split(",") if each.strip()]


def _server_url(address: str) -> str:
    url = address if "://" in address else f"nats://{address}"
    return url if urlsplit(url).port else f"{url}:{NATS_PORT}"
