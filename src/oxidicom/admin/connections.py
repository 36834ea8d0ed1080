"""Connections of the admin port, none of which lives on our patience: uvicorn has no time limit
for a client that connects and says nothing."""

from __future__ import annotations

import asyncio
from typing import Final, cast

from uvicorn.protocols.http.h11_impl import H11Protocol

MOST: Final = 256
"""Connections; one more, and the oldest that asks for nothing is closed."""

LOOK: Final = 5.0
"""Seconds from one look at a connection to the next."""


class Connection(H11Protocol):
    """Closed when two looks in a row find nothing done: no request whole, or the last bytes of an
    answer, or its closing, not taken by the client."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._seen: object = None
        self._timer = self.loop.call_later(LOOK, self._look)
        self._opened = self.loop.time()
        if len(self.connections) > MOST:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def _make_room(self) -> None:
        connections = cast("set[Connection]", self.connections)
        others = (each for each in connections if each.idle)
        oldest = min(others, key=lambda each: each._opened, default=self)
        oldest.transport.abort()

    @property
    def idle(self) -> bool:
        """No request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _look(self) -> None:
        seen = (self.cycle, self.transport.is_closing())
        if (self.idle or self.transport.is_closing()) and seen == self._seen:
            self.transport.abort()
            return
        self._seen = seen
        self._timer = self.loop.call_later(LOOK, self._look)
