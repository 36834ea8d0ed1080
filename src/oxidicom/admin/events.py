"""Server-sent events: one frame a second, made once for all who look on."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

MOST_CLIENTS: Final = 64

PATIENCE: Final = 10.0
"""Seconds until a client is dropped that does not read."""


class Broadcast:
    """A client that is busy with a frame misses the next ones: nothing is kept for it."""

    def __init__(self) -> None:
        self.clients = 0
        self.closed = False
        self._loop = asyncio.get_running_loop()
        self._next: asyncio.Future[bytes | None] = self._loop.create_future()

    def publish(self, data: bytes) -> None:
        """One line."""
        before, self._next = self._next, self._loop.create_future()
        before.set_result(b"event: status\ndata: %s\n\n" % data)

    def close(self) -> None:
        """Every stream ends."""
        if not self.closed:
            self.closed = True
            self._next.set_result(None)

    async def next(self) -> bytes | None:
        """The next frame; None if there will be none."""
        return await asyncio.shield(self._next)


class EventStream(Response):
    media_type = "text/event-stream"

    def __init__(self, broadcast: Broadcast) -> None:
        # nginx would keep events until it has enough of them.
        super().__init__(headers={"X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._broadcast = broadcast

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ways = [asyncio.create_task(self._stream(send)), asyncio.create_task(_until_gone(receive))]
        self._broadcast.clients += 1
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._broadcast.clients -= 1
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _stream(self, send: Send) -> None:
        """Ends, and the connection with it, if the client does not read: TimeoutError."""
        head = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(head)
        frame: bytes | None = b": \n\n"
        while frame is not None:
            async with asyncio.timeout(PATIENCE):
                await send({"type": "http.response.body", "body": frame, "more_body": True})
            frame = await self._broadcast.next()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
