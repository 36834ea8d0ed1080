"""The HTTP server of the admin port: read only, without patient data and without a login.

Every client that can connect to the port may read everything. Host names are therefore not checked:
by DNS rebinding a foreign page reads nothing that the host of its browser could not read anyway.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import re
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from oxidicom.admin.connections import Connection
from oxidicom.admin.events import MAX_EVENT_CLIENTS, Broadcast, EventStream
from oxidicom.admin.metrics import Metrics
from oxidicom.admin.status_board import StatusBoard
from oxidicom.logevents import event

logger = logging.getLogger("oxidicom.admin")

STATUS_INTERVAL_S: Final = 1.0
"""Seconds from one status event to the next, and from one history sample to the next."""

_PAGE: Final = Path(__file__).with_name("page") / "index.html"
_SCRIPT: Final = re.compile(rb"<script[^>]*>(.*?)</script>", re.DOTALL)
_STYLE: Final = re.compile(rb"<style[^>]*>(.*?)</style>", re.DOTALL)

_SECURITY_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class AdminServer:
    """Serves the admin endpoint on the running loop, from `run` until `stop`.

    `restart_reason` returns the text of a failing `/livez`, or None if the receiver is alive.
    """

    def __init__(self, board: StatusBoard, restart_reason: Callable[[], str | None]) -> None:
        self._board = board
        self._restart_reason = restart_reason
        self._metrics = Metrics(board)
        self._broadcast = Broadcast()
        self._page, self._page_policy = _read_page()
        self._encode = msgspec.json.Encoder().encode
        self._server = uvicorn.Server(
            uvicorn.Config(
                _Guard(self._application()),
                http=Connection,
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                log_level="critical",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=128,
                timeout_graceful_shutdown=1,
            )
        )

    async def run(self, sockets: Sequence[socket.socket]) -> None:
        """Serve until `stop` is called or the task is cancelled."""
        updates = asyncio.create_task(self._update(), name="admin updates")
        try:
            await self._server.serve(sockets=list(sockets))
        finally:
            updates.cancel()

    def stop(self) -> None:
        """Ask `run` to end. Each event stream ends with a last status."""
        self._publish()
        self._broadcast.close()
        self._server.should_exit = True

    async def _update(self) -> None:
        """Take a sample and publish the status, every STATUS_INTERVAL_S.

        An error is logged, once until it no longer occurs.
        """
        loop = asyncio.get_running_loop()
        due = loop.time()
        logged = False
        while not self._broadcast.closed:
            due = max(due + STATUS_INTERVAL_S, loop.time())
            await asyncio.sleep(due - loop.time())
            try:
                self._board.sample()
                self._publish()
                logged = False
            except Exception as error:
                if not logged:
                    event(
                        logger, logging.ERROR, "bug in oxidicom, please report it", exc_info=error
                    )
                logged = True

    def _publish(self) -> None:
        if self._broadcast.clients and not self._broadcast.closed:
            self._broadcast.publish(self._encode(self._board.status()))

    # ---- routes --------------------------------------------------------------------------

    def _application(self) -> ASGIApp:
        routes = [
            Route("/", self._front),
            Route("/livez", self._livez),
            Route("/readyz", self._readyz),
            Route("/metrics", self._metrics_page),
            Route("/status", self._status),
            Route("/status/history", self._history),
            Route("/events", self._events),
        ]
        application = Starlette(routes=routes)
        application.router.redirect_slashes = False
        return application

    # All are coroutines, because Starlette runs plain functions on threads.

    async def _front(self, _: Request) -> Response:
        policy = {"Content-Security-Policy": self._page_policy}
        return Response(self._page, media_type="text/html", headers=policy)

    async def _livez(self, _: Request) -> Response:
        reason = self._restart_reason()
        return PlainTextResponse(reason or "ok", 503 if reason else 200)

    async def _readyz(self, _: Request) -> Response:
        readiness = self._board.readiness()
        return self._json(readiness, 200 if readiness.ready else 503)

    async def _metrics_page(self, request: Request) -> Response:
        text, content_type = self._metrics.page(request.headers.get("accept", ""))
        return Response(text, headers={"Content-Type": content_type})

    async def _status(self, _: Request) -> Response:
        return self._json(self._board.status())

    async def _history(self, _: Request) -> Response:
        return self._json(self._board.history())

    async def _events(self, request: Request) -> Response:
        if self._broadcast.clients >= MAX_EVENT_CLIENTS or self._broadcast.closed:
            return PlainTextResponse("too many event clients", 503)
        if request.method == "HEAD":
            return Response(media_type=EventStream.media_type)
        return EventStream(self._broadcast)

    def _json(self, record: msgspec.Struct, status: int = 200) -> Response:
        return Response(self._encode(record), status, media_type="application/json")


class _Guard:
    """Adds the security headers to every response, and logs errors of the application."""

    def __init__(self, application: ASGIApp) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._application(scope, receive, send_guarded)
        except Exception as error:
            # Starlette has sent status 500 before, unless the response had already begun.
            event(logger, logging.ERROR, "bug in oxidicom, please report it", exc_info=error)


def _read_page() -> tuple[bytes, str]:
    """Return the page and a Content-Security-Policy that allows only its own script and style.

    The page is empty if its file is missing.
    """
    page = b""
    with suppress(FileNotFoundError):
        page = _PAGE.read_bytes()
    policy = (
        f"default-src 'none'; script-src {_hashes(_SCRIPT, page)}; "
        f"style-src {_hashes(_STYLE, page)}; img-src data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page, policy


def _hashes(element: re.Pattern[bytes], page: bytes) -> str:
    """Return the hashes of all inline scripts or styles in `page` as a source list (CSP level 2).

    `element` is the pattern that finds them; its group is the contents.
    """
    digests = (hashlib.sha256(inline).digest() for inline in element.findall(page))
    return " ".join(f"'sha256-{base64.b64encode(each).decode()}'" for each in digests) or "'none'"
