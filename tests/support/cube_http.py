"""A CUBE of our own on a free port: checks every request, remembers it, misbehaves as told."""

from __future__ import annotations

import base64
import json
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from tests.support.timing import WAIT_LIMIT_S

USERNAME, PASSWORD = "chris", "geheim:ü"

DUPLICATE = {"path": ["File has already been registered."]}
DUPLICATE_SERIES = ["A DICOM series with SeriesInstanceUID=1.2 already registered for pacs PACS"]


class Reply(NamedTuple):
    status: int = 201
    body: Any = None
    """Bytes as they are, anything else as JSON."""
    headers: Mapping[str, str] = {}


HANG = Reply(0)
RESET = Reply(-1)
CUT = Reply(-2)
"""A success whose body ends too early."""


class Taken(NamedTuple):
    """One registration that was answered with a success."""

    resource: str
    body: dict[str, Any]


class Cube:
    """A CUBE whose replies a test sets: `next` for one request each, `always` for all, `choose` for
    those for which it returns one. Otherwise it registers, and a path that it has
    is a duplicate."""

    def __init__(
        self, port: int = 0, base: str = "/api/v1/", tls: tuple[Path, Path] | None = None
    ) -> None:
        """`tls`: files of a certificate and its key."""
        self.base = base
        self.next: deque[Reply] = deque()
        self.always: Reply | None = None
        self.choose: Callable[[str, dict[str, Any]], Reply | None] = lambda resource, body: None
        self.shows: dict[str, Reply] = {}
        """By path of the URL: what a GET is answered."""
        self.taken: list[Taken] = []
        self.requests: list[str] = []
        """Paths of the registrations asked for, successful or not."""
        self.traceparents: list[str | None] = []
        """What each request said in its header of that name."""
        self.faults: list[str] = []
        """What was wrong with requests."""
        self.at_once = 0
        self.most_at_once = 0
        self._changed = threading.Condition()
        self._end = threading.Event()
        self._server = _Server(("127.0.0.1", port), _handler_of(self))
        self.port: int = self._server.server_address[1]
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.url = f"http{'' if tls is None else 's'}://127.0.0.1:{self.port}{base}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        if kind is None:
            assert self.faults == []

    # ---- for tests ------------------------------------------------------------------------------

    def wait_for(
        self, condition: Callable[[], bool], what: str, timeout: float = WAIT_LIMIT_S
    ) -> None:
        """`condition` is looked at after each request."""
        with self._changed:
            assert self._changed.wait_for(condition, timeout), f"{what}; came: {self.requests}"

    def wait_for_taken(self, count: int, timeout: float = WAIT_LIMIT_S) -> list[Taken]:
        self.wait_for(lambda: len(self.taken) >= count, f"fewer than {count} taken", timeout)
        return list(self.taken)

    @property
    def paths(self) -> list[str]:
        """The registered paths, in order."""
        return [taken.body["path"] for taken in self.taken]

    # ---- for the handler ------------------------------------------------------------------------

    def answer(self, resource: str, body: dict[str, Any], traceparent: str | None) -> Reply:
        with self._changed:
            self.requests.append(body.get("path", ""))
            self.traceparents.append(traceparent)
            chosen = self.choose(resource, body)
            if self.always is not None:
                return self.always
            if chosen is not None:
                return chosen
            if self.next:
                return self.next.popleft()
            if body["path"] in self.paths:
                return Reply(400, DUPLICATE)
            self.taken.append(Taken(resource, body))
            return Reply(201, {"id": len(self.taken)})

    def fault(self, text: str) -> None:
        with self._changed:
            self.faults.append(text)

    def began(self) -> None:
        with self._changed:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)

    def ended(self) -> None:
        with self._changed:
            self.at_once -= 1
            self._changed.notify_all()

    def hang(self) -> None:
        self._end.wait(60)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 100

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


def _handler_of(cube: Cube) -> type[BaseHTTPRequestHandler]:
    login = base64.b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.headers["Authorization"] != f"Basic {login}":
                self._send(Reply(401, {"detail": "Invalid username/password."}))
            else:
                self._send(cube.always or cube.shows.get(self.path, Reply(200, {"count": 0})))

        def do_POST(self) -> None:
            cube.began()
            try:
                reply = self._judge()
                if reply is HANG:
                    cube.hang()
                elif reply is RESET:
                    linger = struct.pack("ii", 1, 0)
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    self.close_connection = True
                elif reply is CUT:
                    self.send_response(201)
                    self.send_header("Content-Length", "1000")
                    self.end_headers()
                    self.wfile.write(b"{")
                    self.close_connection = True
                else:
                    self._send(reply)
            finally:
                cube.ended()

        def _judge(self) -> Reply:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers["Authorization"] != f"Basic {login}":
                return Reply(401, {"detail": "Invalid username/password."})
            for name, value in (
                ("Content-Type", "application/json"),
                ("Accept", "application/json"),
            ):
                if self.headers[name] != value:
                    cube.fault(f"{name}: {self.headers[name]}")
            if not self.path.startswith(cube.base):
                cube.fault(f"path {self.path}")
                return Reply(404)
            resource = self.path.removeprefix(cube.base)
            if resource not in ("pacsfiles/", "pacs/series/"):
                cube.fault(f"resource {resource}")
                return Reply(404)
            return cube.answer(resource, json.loads(data), self.headers["traceparent"])

        def _send(self, reply: Reply) -> None:
            body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None: ...

    return Handler
