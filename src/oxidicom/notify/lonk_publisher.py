"""Publishes LONK messages over NATS.

Reception never waits for NATS: while it is unreachable, counts are dropped, and other messages are
queued up to MAX_QUEUED_MESSAGES (decision 37).
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import nats.errors

from oxidicom.backoff import Backoff
from oxidicom.cancellation import end_tasks
from oxidicom.certificates import client_context
from oxidicom.logevents import describe_client_error, event
from oxidicom.notify import lonk_messages
from oxidicom.notify.lonk_messages import ProgressLimiter, Urgency
from oxidicom.notify.nats_client import (
    NATS_CLOSE_TIMEOUT_S,
    NATS_CONNECT_TIMEOUT_S,
    NATS_FIRST_RETRY_S,
    NATS_GREATEST_RETRY_S,
    NATS_PING_INTERVAL_S,
    NatsClient,
    server_urls,
)
from oxidicom.ports import SeriesInfo

MAX_QUEUED_MESSAGES: Final = 4096
"""Length of the queue; one more message displaces the oldest one."""
ROUND_TRIP_TIMEOUT_S: Final = 3 * NATS_PING_INTERVAL_S
"""Seconds for the answer to a ping; by then nats-py has closed a connection that hangs."""
MAX_UNSENT_BYTES: Final = 256 * 1024
"""Size of nats-py's own buffer in bytes; when it is full, messages wait in our queue."""

logger = logging.getLogger("oxidicom.lonk")


class _Message(NamedTuple):
    subject: str
    urgency: Urgency
    payload: bytes


class LonkPublisher:
    """Sends LONK messages in the order in which its methods are called.

    All methods except `flush` and `close` return at once. `address` is `host`, `host:port`,
    `nats://…` or `tls://…`, with an optional login (`user:password@` or `token@`) before the host;
    commas separate several servers of one cluster. `dev_sleep` is a pause in seconds after every
    message, sent or not, which makes progress bars slow enough to watch. `ca` is a PEM file of the
    certificates to trust instead of the system's. `clock` is in seconds.
    """

    def __init__(
        self,
        address: str,
        root_subject: str,
        limiter: ProgressLimiter,
        *,
        dev_sleep: float = 0.0,
        ca: Path | None = None,
        queue_length: int = MAX_QUEUED_MESSAGES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.dropped = 0
        """Number of messages lost because NATS was unreachable, too slow or failed. Counts that the
        rate limit suppressed are not included."""
        self._servers = server_urls(address)
        self._root_subject = root_subject
        self._limiter = limiter
        self._dev_sleep = dev_sleep
        self._ca = ca
        self._tls: ssl.SSLContext | None = None
        self._queue_length = queue_length
        self._clock = clock
        self._queue: deque[_Message] = deque()
        self._client: NatsClient | None = None
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
        """Whether there is a connection to a NATS server now."""
        return self._connected.is_set()

    @property
    def depth(self) -> int:
        """The number of messages in the queue."""
        return len(self._queue)

    async def start(self) -> None:
        """Begin to connect and to send; return without waiting for NATS."""
        self._tasks = [
            asyncio.create_task(self._keep_connected(), name="NATS connection"),
            asyncio.create_task(self._send_queued(), name="LONK sender"),
        ]

    def progress(self, series: SeriesInfo, count: int, first: bool) -> None:
        """Send the number of received instances; the rate limit applies unless `first` is True."""
        subject = self._subject(series)
        if first:
            self._put(subject, Urgency.FIRST, lonk_messages.ndicom(count))
        elif self._queue or self._limiter.admits(subject, Urgency.COUNT, self._clock()):
            self._put(subject, Urgency.COUNT, lonk_messages.ndicom(count))

    def failed(self, calling_ae_title: str, series_instance_uid: str | None, error: str) -> None:
        """Send an error of a series; `series_instance_uid` is None if the series is unknown."""
        subject = lonk_messages.subject(self._root_subject, calling_ae_title, series_instance_uid)
        self._put(subject, Urgency.ERROR, lonk_messages.error(error))

    def final(self, series: SeriesInfo, received: int) -> None:
        """Send the number of received instances of a complete series."""
        self._put(self._subject(series), Urgency.FINAL, lonk_messages.ndicom(received))

    def done(self, series: SeriesInfo, received: int) -> None:
        """Send that a series is complete. `received` is ignored."""
        del received  # the message has no count, but must be sent in any case: it frees the subject
        self._put(self._subject(series), Urgency.DONE, lonk_messages.done())

    async def flush(self, timeout: float) -> bool:
        """Wait until the server has received every message, for at most `timeout` seconds.

        Return True if it has; False if the time is over or the connection fails. Meanwhile there
        are no pauses for `dev_sleep`.
        """
        self._hurry.set()
        try:
            async with asyncio.timeout(timeout):
                await self._empty.wait()
                if self._client is None or not self.connected:
                    return False
                # Shielded from the timeout: when a PONG arrives whose future was cancelled, nats-py
                # fails and closes the connection.
                await asyncio.shield(self._round_trip(self._client))
        except (TimeoutError, nats.errors.Error, OSError):
            return False
        else:
            return True
        finally:
            self._hurry.clear()

    def _round_trip(self, client: NatsClient) -> asyncio.Task[None]:
        task = asyncio.create_task(client.flush(ROUND_TRIP_TIMEOUT_S), name="NATS round trip")
        self._round_trips.add(task)
        task.add_done_callback(self._round_trip_ended)
        return task

    def _round_trip_ended(self, task: asyncio.Task[None]) -> None:
        self._round_trips.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved, or asyncio would log it if `flush` timed out

    async def close(self) -> None:
        """Close the connection; return after NATS_CLOSE_TIMEOUT_S + 0.5 seconds at the latest.

        Messages that are still queued are dropped; call `flush` first.
        """
        self._closing = True
        await end_tasks(
            [*self._tasks, *self._round_trips],
            NATS_CLOSE_TIMEOUT_S + 0.5,
            cancel_again_s=NATS_CLOSE_TIMEOUT_S + 0.3,  # after an orderly close has ended
        )
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
        if message.urgency is Urgency.DONE:  # otherwise the limiter would keep the subject
            self._limiter.sent(message.subject, message.urgency, self._clock())

    async def _send_queued(self) -> None:
        # The flag is tested as well, because nats-py swallows a cancellation during a publish.
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
        """Connect again whenever the connection ends, until `close`."""
        backoff = Backoff(NATS_FIRST_RETRY_S, NATS_GREATEST_RETRY_S)
        # The flag is tested as well, because nats-py may swallow the cancellation.
        while not self._closing:
            client = NatsClient()
            try:
                closed = await self._connect(client)
                if self._closing:
                    return
                self._client = client
                self._connected.set()
                event(logger, logging.INFO, "connected to NATS")
                backoff.reset()
                await closed.wait()
                raise nats.errors.ConnectionClosedError
            except Exception as error:
                if not backoff:
                    event(
                        logger,
                        logging.WARNING,
                        "NATS unreachable; progress dropped",
                        reason=describe_client_error(error),
                    )
            finally:
                self._connected.clear()
                await client.close_or_abort()
            delay = backoff.failed()
            if not self._closing:
                await asyncio.sleep(delay)

    async def _connect(self, client: NatsClient) -> asyncio.Event:
        """Connect, and return an event that is set when the connection has ended.

        Raises nats.errors.Error or OSError.
        """
        closed = asyncio.Event()

        async def on_closed() -> None:
            closed.set()

        async def on_error(_: Exception) -> None:
            """Ignore the error: nats-py then closes the connection and calls `on_closed`."""

        if self._tls is None:
            self._tls = client_context(self._ca)
        await client.connect_once(
            self._servers,
            "oxidicom",
            self._tls,
            closed_cb=on_closed,
            error_cb=on_error,
            pending_size=MAX_UNSENT_BYTES,
            flush_timeout=NATS_CONNECT_TIMEOUT_S,
        )
        return closed
