"""LONK over NATS. Nobody waits for it: with NATS away, counts are dropped and the rest is kept only
as far as the queue goes (decision 37)."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import unquote, urlsplit

import nats.errors
from nats.aio.client import Client

from oxidicom.certificates import client_context
from oxidicom.logevents import event, reason_of
from oxidicom.notify import lonk_messages
from oxidicom.notify.lonk_messages import ProgressLimiter, Urgency
from oxidicom.ports import SeriesInfo

DEFAULT_PORT: Final = 4222
QUEUE_LENGTH: Final = 4096
CONNECT_TIMEOUT: Final = 5
CLOSE_TIMEOUT: Final = 2.0
FIRST_RETRY: Final = 0.1
LAST_RETRY: Final = 2.0
PING_INTERVAL: Final = 10
"""Seconds. Two unanswered pings, and the connection counts as dead."""
ROUND_TRIP_TIMEOUT: Final = 3 * PING_INTERVAL
MAX_UNSENT: Final = 256 * 1024
"""Bytes in the client's own buffer; beyond, our queue fills instead."""

logger = logging.getLogger("oxidicom.lonk")


class _Message(NamedTuple):
    subject: str
    urgency: Urgency
    payload: bytes


class BoundedClient(Client):
    """Never speaks in the clear where TLS was asked for; nats-py does if the server is willing."""

    def _connect_command(self) -> bytes:
        server = self._current_server
        if server and server.uri.scheme == "tls" and not self._server_info.get("tls_required"):
            raise nats.errors.SecureConnRequiredError
        return super()._connect_command()

    def abort(self) -> None:
        """Close at once; `close` waits until all is sent, which a hung server never takes."""
        writer: asyncio.StreamWriter | None = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()


class LonkPublisher:
    """One publisher, so one order. All but `start`, `flush` and `close` return at once.

    `address`: `host`, `host:port`, `nats://…` or `tls://…`, with user:password@ or token@; several
    servers of one cluster with commas between. `dev_sleep` (seconds) follows every message, sent or
    not: it makes progress bars slow enough to look at.
    """

    def __init__(
        self,
        address: str,
        root_subject: str,
        limiter: ProgressLimiter,
        *,
        dev_sleep: float = 0.0,
        ca: Path | None = None,
        queue_length: int = QUEUE_LENGTH,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.dropped = 0
        """Messages lost or never tried because NATS was away or too slow; not the rate limited."""
        self._servers = [with_scheme(each) for each in address.split(",") if each.strip()]
        self._root_subject = root_subject
        self._limiter = limiter
        self._dev_sleep = dev_sleep
        self._ca = ca
        self._tls: ssl.SSLContext | None = None
        self._queue_length = queue_length
        self._clock = clock
        self._queue: deque[_Message] = deque()
        self._client: Client | None = None
        self._connected = asyncio.Event()
        self._filled = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._hurry = asyncio.Event()
        self._closing = False
        self._tasks: list[asyncio.Task[None]] = []
        self._round_trips: set[asyncio.Task[None]] = set()

    @property
    def connected(self) -> bool:
        return self._connected.is_set()

    @property
    def depth(self) -> int:
        """Messages in the queue."""
        return len(self._queue)

    async def start(self) -> None:
        """Never fails, never waits for NATS."""
        self._tasks = [
            asyncio.create_task(self._keep_connected(), name="NATS connection"),
            asyncio.create_task(self._send_queued(), name="LONK sender"),
        ]

    def progress(self, series: SeriesInfo, count: int, first: bool) -> None:
        subject = self._subject(series)
        if first:
            self._put(subject, Urgency.FIRST, lonk_messages.ndicom(count))
        elif self._queue or self._limiter.admits(subject, Urgency.COUNT, self._clock()):
            self._put(subject, Urgency.COUNT, lonk_messages.ndicom(count))

    def failed(self, calling_ae_title: str, series_instance_uid: str | None, error: str) -> None:
        subject = lonk_messages.subject(self._root_subject, calling_ae_title, series_instance_uid)
        self._put(subject, Urgency.ERROR, lonk_messages.error(error))

    def final(self, series: SeriesInfo, received: int) -> None:
        self._put(self._subject(series), Urgency.FINAL, lonk_messages.ndicom(received))

    def done(self, series: SeriesInfo, received: int) -> None:
        del received  # every done frees the subject's state, whatever was received
        self._put(self._subject(series), Urgency.DONE, lonk_messages.done())

    async def flush(self, timeout: float) -> bool:
        """Whether the server has everything within `timeout` seconds; no pauses meanwhile."""
        self._hurry.set()
        try:
            async with asyncio.timeout(timeout):
                await self._empty.wait()
                if self._client is None or not self.connected:
                    return False
                # Not cancelled by our timeout: nats-py trips over an answer that nobody awaits
                # any more, and closes.
                await asyncio.shield(self._round_trip(self._client))
        except (TimeoutError, nats.errors.Error, OSError):
            return False
        else:
            return True
        finally:
            self._hurry.clear()

    def _round_trip(self, client: Client) -> asyncio.Task[None]:
        task = asyncio.create_task(client.flush(ROUND_TRIP_TIMEOUT), name="NATS round trip")
        self._round_trips.add(task)
        task.add_done_callback(self._round_trip_ended)
        return task

    def _round_trip_ended(self, task: asyncio.Task[None]) -> None:
        self._round_trips.discard(task)
        if not task.cancelled():
            task.exception()  # whoever still waits has seen it

    async def close(self) -> None:
        """What is still queued is dropped; `flush` before."""
        self._closing = True
        tasks = [*self._tasks, *self._round_trips]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()
        self.dropped += len(self._queue)
        self._queue.clear()

    # ---- the queue --------------------------------------------------------------------------

    def _subject(self, series: SeriesInfo) -> str:
        return lonk_messages.subject(
            self._root_subject, series.calling_ae_title, series.series_instance_uid
        )

    def _put(self, subject: str, urgency: Urgency, payload: bytes) -> None:
        full = len(self._queue) >= self._queue_length
        if urgency is Urgency.COUNT and (full or not self.connected):
            self.dropped += 1
            return
        if full:
            self._drop(self._queue.popleft())
        self._queue.append(_Message(subject, urgency, payload))
        self._empty.clear()
        self._filled.set()

    def _drop(self, message: _Message) -> None:
        self.dropped += 1
        if message.urgency is Urgency.DONE:  # its state must go all the same
            self._limiter.sent(message.subject, message.urgency, self._clock())

    async def _send_queued(self) -> None:
        # nats-py swallows a cancellation that meets it in the middle of a publish.
        while not self._closing:
            await self._filled.wait()
            self._filled.clear()
            while self._queue and not self._closing:
                await self._connected.wait()
                if not self._queue:
                    break
                await self._send(self._queue.popleft())
                if self._dev_sleep and not self._hurry.is_set():
                    await self._pause(self._dev_sleep)
            if not self._queue:
                self._empty.set()

    async def _send(self, message: _Message) -> None:
        if not self._limiter.admits(message.subject, message.urgency, self._clock()):
            return
        assert self._client is not None
        try:
            await self._client.publish(message.subject, message.payload)
        except (nats.errors.ConnectionClosedError, nats.errors.OutboundBufferLimitError):
            self._connected.clear()
            self._queue.appendleft(message)
        except Exception as error:
            event(logger, logging.WARNING, "LONK message not sent", error=error)
            self._drop(message)
        else:
            self._limiter.sent(message.subject, message.urgency, self._clock())

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._hurry.wait()
        except TimeoutError:
            pass

    # ---- the connection ---------------------------------------------------------------------

    async def _keep_connected(self) -> None:
        """nats-py's own reconnection gives up on a refused login, and connects never at start."""
        delay = FIRST_RETRY
        away = False
        while True:
            closed = asyncio.Event()
            client = BoundedClient()
            try:
                await client.connect(**self._options(closed))
                self._client = client
                self._connected.set()
                event(logger, logging.INFO, "connected to NATS")
                away, delay = False, FIRST_RETRY
                await closed.wait()
                raise nats.errors.ConnectionClosedError
            except Exception as error:
                if not away:
                    event(
                        logger,
                        logging.WARNING,
                        "NATS unreachable; progress dropped",
                        reason=reason_of(error),
                    )
                away = True
            finally:
                self._connected.clear()
                await close_client(client)
            await asyncio.sleep(delay)
            delay = min(delay * 2, LAST_RETRY)

    def _options(self, closed: asyncio.Event) -> dict[str, Any]:
        async def on_closed() -> None:
            closed.set()

        async def on_error(_: Exception) -> None:
            """Reported by what follows from it."""

        if self._tls is None:
            self._tls = client_context(self._ca)
        credentials = urlsplit(self._servers[0])
        user, password = credentials.username, credentials.password
        login: dict[str, str] = {}
        if user and password is not None:
            login = {"user": unquote(user), "password": unquote(password)}
        elif user:
            login = {"token": unquote(user)}
        return {
            "servers": self._servers,
            "closed_cb": on_closed,
            "error_cb": on_error,
            "name": "oxidicom",
            "allow_reconnect": False,
            "max_reconnect_attempts": 1,
            "reconnect_time_wait": 0,
            "connect_timeout": CONNECT_TIMEOUT,
            "ping_interval": PING_INTERVAL,
            "pending_size": MAX_UNSENT,
            "flush_timeout": CONNECT_TIMEOUT,
            "tls": self._tls,
            **login,
        }


def with_scheme(address: str) -> str:
    address = address.strip()
    if "://" not in address:
        address = f"nats://{address}"
    return address if urlsplit(address).port else f"{address}:{DEFAULT_PORT}"


async def close_client(client: BoundedClient) -> None:
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT):
            await client.close()
    except Exception as error:
        event(logger, logging.DEBUG, "NATS connection did not close", reason=reason_of(error))
        client.abort()
