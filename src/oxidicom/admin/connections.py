"""Connections of the admin port with time limits, because uvicorn has none for a client that
connects and sends nothing."""

from __future__ import annotations

import asyncio
from typing import Final, cast

from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS: Final = 256
"""Number of connections that may be open. When there are more, the oldest idle one is closed, or
the new one if none is idle."""

PROGRESS_CHECK_INTERVAL_S: Final = 5.0
"""Seconds from one check of a connection's progress to the next."""


class Connection(H11Protocol):
    """One connection, which is aborted when two checks in a row find no progress.

    There is no progress if no complete request has arrived, if the client has not read the last
    bytes of a response, or if it has not closed its end of a closing connection.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._last_state: object = None
        self._timer = self.loop.call_later(PROGRESS_CHECK_INTERVAL_S, self._check_progress)
        self._opened = self.loop.time()
        if len(self.connections) > MAX_CONNECTIONS:
            self._close_oldest()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def _close_oldest(self) -> None:
        connections = cast("set[Connection]", self.connections)
        idle = (each for each in connections if each.idle)
        oldest = min(idle, key=lambda each: each._opened, default=self)
        oldest.transport.abort()

    @property
    def idle(self) -> bool:
        """Whether no request is being answered at the moment."""
        return self.cycle is None or self.cycle.response_complete

    def _check_progress(self) -> None:
        state = (self.cycle, self.transport.is_closing())
        if (self.idle or self.transport.is_closing()) and state == self._last_state:
            self.transport.abort()
            return
        self._last_state = state
        self._timer = self.loop.call_later(PROGRESS_CHECK_INTERVAL_S, self._check_progress)
