"""Receives LONK messages over NATS, of oxidicom or of the reference implementation."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import nats.errors
from nats.aio.msg import Msg

from oxidicom.backoff import Backoff
from oxidicom.cancellation import run_within
from oxidicom.certificates import client_context
from oxidicom.logevents import describe_client_error
from oxidicom.notify import lonk_messages
from oxidicom.notify.nats_client import (
    NATS_CONNECT_TIMEOUT_S,
    NATS_FIRST_RETRY_S,
    NATS_GREATEST_RETRY_S,
    NatsClient,
    server_urls,
)


class LonkSubscriber:
    """Calls `on_message` for each LONK message, and connects again when the connection ends.

    `on_message` is called with each message whose subject is valid, `on_state` with a line for the
    user whenever the connection begins, ends or loses messages; both on the running loop. Unless
    `calling_ae_title` is None, only series of that AE title are subscribed to. `ca` is a PEM file
    of the certificates to trust instead of the system's.
    """

    def __init__(
        self,
        address: str,
        root_subject: str,
        on_message: Callable[[lonk_messages.LonkMessage], None],
        on_state: Callable[[str], None],
        *,
        calling_ae_title: str | None = None,
        ca: Path | None = None,
    ) -> None:
        self._servers = server_urls(address)
        self._root = root_subject
        titles = "*" if calling_ae_title is None else lonk_messages.token(calling_ae_title)
        self._subjects = f"{root_subject}.{titles}.*"
        self._on_message = on_message
        self._on_state = on_state
        self._tls = client_context(ca)
        self._callback_error: Exception | None = None
        """What `on_message` raised; `run` raises it, because nats-py would only log it."""
        # Keeps nats-py's log messages from standard error; `on_state` reports the same.
        logging.getLogger("nats").addHandler(logging.NullHandler())

    async def run(self) -> None:
        """Receive until cancelled. Raises CancelledError, or what `on_message` raises."""
        backoff = Backoff(NATS_FIRST_RETRY_S, NATS_GREATEST_RETRY_S)
        while True:
            client = NatsClient()
            try:
                closed = await self._subscribe(client)
                self._on_state(f"listening to {self._subjects}")
                backoff.reset()
                await closed.wait()
                raise nats.errors.ConnectionClosedError
            except Exception as error:
                if self._callback_error is not None:
                    raise self._callback_error from None
                if not backoff:
                    self._on_state(f"NATS unreachable: {describe_client_error(error)}")
            finally:
                await client.close_or_abort()
            await asyncio.sleep(backoff.failed())

    async def _subscribe(self, client: NatsClient) -> asyncio.Event:
        """Connect and subscribe; return an event that is set when this ends.

        It ends when the connection is closed or `on_message` raises an exception. Raises
        nats.errors.Error or OSError.
        """
        closed = asyncio.Event()

        async def on_closed() -> None:
            closed.set()

        async def on_error(error: Exception) -> None:
            if isinstance(error, nats.errors.SlowConsumerError):
                self._on_state("some messages were missed: they arrive faster than they are shown")

        await client.connect_once(
            self._servers, "oxidicom watch", self._tls, closed_cb=on_closed, error_cb=on_error
        )

        async def on_nats_message(received: Msg) -> None:
            message = lonk_messages.decode(self._root, received.subject, received.data)
            if message is None or self._callback_error is not None:
                return
            try:
                self._on_message(message)
            except Exception as error:
                self._callback_error = error
                closed.set()

        await client.subscribe(self._subjects, cb=on_nats_message)
        # In a task of its own, because nats-py may swallow the caller's cancellation.
        await run_within(client.flush(NATS_CONNECT_TIMEOUT_S), None)
        return closed
