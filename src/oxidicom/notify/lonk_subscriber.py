"""Hearing LONK: what this receiver, or the reference, tells of its series over NATS."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import nats.errors
from nats.aio.msg import Msg

from oxidicom.certificates import client_context
from oxidicom.logevents import reason_of
from oxidicom.notify import lonk_messages
from oxidicom.notify.lonk_publisher import (
    CONNECT_TIMEOUT,
    FIRST_RETRY,
    LAST_RETRY,
    PING_INTERVAL,
    BoundedClient,
    close_client,
    with_scheme,
)

_TOO_MANY: Final = (nats.errors.SlowConsumerError,)


class LonkSubscriber:
    """Calls back on the running loop; `run` goes on whatever NATS does, until it is cancelled or
    `heard` raises.

    `calling_ae_title`: of these series only. `heard` gets each message that is one, `state` a line
    for a person whenever the connection comes or goes.
    """

    def __init__(
        self,
        address: str,
        root_subject: str,
        heard: Callable[[lonk_messages.LonkMessage], None],
        state: Callable[[str], None],
        *,
        calling_ae_title: str | None = None,
        ca: Path | None = None,
    ) -> None:
        self._servers = [with_scheme(each) for each in address.split(",") if each.strip()]
        self._root = root_subject
        titles = "*" if calling_ae_title is None else lonk_messages.token(calling_ae_title)
        self._subjects = f"{root_subject}.{titles}.*"
        self._heard = heard
        self._state = state
        self._tls = client_context(ca)
        self._fault: Exception | None = None
        """Of `heard`: nats-py would keep it to itself."""
        logging.getLogger("nats").addHandler(logging.NullHandler())  # `state` says it

    async def run(self) -> None:
        """As the publisher does, with a new client each time: nats-py's own reconnection gives up
        on a refused login."""
        delay = FIRST_RETRY
        away = False
        while True:
            closed = asyncio.Event()
            client = BoundedClient()
            try:
                await self._subscribe(client, closed)
                self._state(f"listening to {self._subjects}")
                away, delay = False, FIRST_RETRY
                await closed.wait()
                raise nats.errors.ConnectionClosedError
            except Exception as error:
                if self._fault is not None:
                    raise self._fault from None
                if not away:
                    self._state(f"NATS is away: {reason_of(error)}")
                away = True
            finally:
                await close_client(client)
            await asyncio.sleep(delay)
            delay = min(delay * 2, LAST_RETRY)

    async def _subscribe(self, client: BoundedClient, closed: asyncio.Event) -> None:
        async def on_closed() -> None:
            closed.set()

        async def on_error(error: Exception) -> None:
            if isinstance(error, _TOO_MANY):
                self._state("some messages were missed: they come faster than they are shown")

        credentials = urlsplit(self._servers[0])
        user, password = credentials.username, credentials.password
        login: dict[str, Any] = {}
        if user and password is not None:
            login = {"user": unquote(user), "password": unquote(password)}
        elif user:
            login = {"token": unquote(user)}
        await client.connect(
            servers=self._servers,
            closed_cb=on_closed,
            error_cb=on_error,
            name="oxidicom watch",
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=CONNECT_TIMEOUT,
            ping_interval=PING_INTERVAL,
            tls=self._tls,
            **login,
        )

        async def on_message(message: Msg) -> None:
            heard = lonk_messages.decode(self._root, message.subject, message.data)
            if heard is None or self._fault is not None:
                return
            try:
                self._heard(heard)
            except Exception as fault:
                self._fault = fault
                closed.set()

        await client.subscribe(self._subjects, cb=on_message)
        await client.flush(CONNECT_TIMEOUT)
