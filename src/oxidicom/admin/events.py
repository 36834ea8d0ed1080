"""Server-sent events: one frame per second, which is encoded once for all clients."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

MAX_EVENT_CLIENTS: Final = 64
"""Number of clients that may receive events at the same time; further ones are refused."""

EVENT_WRITE_TIMEOUT_S: Final = 10.0
"""Seconds within which a client must take a frame; otherwise it is disconnected."""


class Broadcast:
    """Passes each frame to all clients that are waiting for one.

    Frames are not queued: a client that is still receiving one frame misses the next ones.
    """

    def __init__(self) -> None:
        self.clients = 0
        self.closed = False
        self._loop = asyncio.get_running_loop()
        self._next_frame: asyncio.Future[bytes | None] = self._loop.create_future()

    def publish(self, data: bytes) -> None:
        """Send the frame with `data`, one line of JSON. Must not be called after `close`."""
        frame, self._next_frame = self._next_frame, self._loop.create_future()
        frame.set_result(b"event: status\ndata: %s\n\n" % data)

    def close(self) -> None:
        """End the stream of every client. Does nothing if the broadcast is closed."""
        if not self.closed:
            self.closed = True
            self._next_frame.set_result(None)

    async def next(self) -> bytes | None:
        """Wait for the next frame and return it; None after `close`."""
        return await asyncio.shield(self._next_frame)


class EventStream(Response):
    """The response to one client: frames until `Broadcast.close` or until the client
    disconnects."""

    media_type = "text/event-stream"

    def __init__(self, broadcast: Broadcast) -> None:
        # Without this header nginx buffers events.
        super().__init__(headers={"X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._broadcast = broadcast

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        tasks = [
            asyncio.create_task(self._stream(send)),
            asyncio.create_task(_until_disconnected(receive)),
        ]
        self._broadcast.clients += 1
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._broadcast.clients -= 1
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _stream(self, send: Send) -> None:
        """Send frames until the broadcast is closed.

        Raises TimeoutError if the client does not take a frame in time. The response then remains
        incomplete, and uvicorn closes the connection.
        """
        head = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(head)
        frame: bytes | None = b": \n\n"
        while frame is not None:
            async with asyncio.timeout(EVENT_WRITE_TIMEOUT_S):
                await send({"type": "http.response.body", "body": frame, "more_body": True})
            frame = await self._broadcast.next()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _until_disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
