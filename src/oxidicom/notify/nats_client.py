"""A NATS client for the LONK publisher and the LONK subscriber."""

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
"""Port of a server whose address has none."""
NATS_CONNECT_TIMEOUT_S: Final = 5
"""Seconds to connect to one server."""
NATS_CLOSE_TIMEOUT_S: Final = 2.0
"""Seconds to close the connection in order before it is aborted."""
NATS_FIRST_RETRY_S: Final = 0.1
NATS_GREATEST_RETRY_S: Final = 2.0
"""Seconds between attempts to connect; doubled from the first to the greatest."""
NATS_PING_INTERVAL_S: Final = 10
"""Seconds between pings; nats-py closes the connection after two unanswered ones."""

logger = logging.getLogger("oxidicom.lonk")


class NatsClient(Client):
    """A client for one connection. With a `tls://` URL it never sends its login unencrypted.

    nats-py alone would send it unencrypted to a server that does not require TLS.
    """

    def _connect_command(self) -> bytes:
        server = self._current_server
        if server and server.uri.scheme == "tls" and not self._server_info.get("tls_required"):
            raise nats.errors.SecureConnRequiredError
        return super()._connect_command()

    async def connect_once(
        self, servers: list[str], name: str, tls: ssl.SSLContext, **options: Any
    ) -> None:
        """Connect to one of `servers`, a list of URLs, with the login in the first URL.

        `options` are passed to nats-py. The client does not reconnect by itself: nats-py's
        reconnection gives up if the login is refused, and does not begin before the first
        connection. Raises nats.errors.Error or OSError.
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
        """Close in order, or abort the connection after NATS_CLOSE_TIMEOUT_S.

        Raises only CancelledError. nats-py's `close` alone waits until everything is sent, which
        never happens if the server hangs.
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
    """Return the URLs of the servers in `address`, which commas separate.

    Without a scheme or a port, `nats://` and NATS_PORT are added.
    """
    return [_server_url(each.strip()) for each in address.split(",") if each.strip()]


def _server_url(address: str) -> str:
    url = address if "://" in address else f"nats://{address}"
    return url if urlsplit(url).port else f"{url}:{NATS_PORT}"
