"""The HTTP server of the admin endpoint on a real port: responses and time limits of clients."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest
import pytest_asyncio

from oxidicom.admin import connections, events, server
from oxidicom.admin.model import History, Readiness, ReceiverStatus
from oxidicom.admin.server import AdminServer
from oxidicom.net.shared_port import listening_sockets
from tests.unit.test_status_board import Bench

INTERVAL_S = 0.02


class Admin:
    """A server, its status board and a client."""

    def __init__(self) -> None:
        self.bench = Bench()
        self.restart_reason: str | None = None
        (listening,) = listening_sockets("127.0.0.1", 0, 16)
        self.address: tuple[str, int] = listening.getsockname()
        self.url = f"http://127.0.0.1:{self.address[1]}"
        self.server = AdminServer(self.bench.board, lambda: self.restart_reason)
        self.running = asyncio.create_task(self.server.run([listening]))
        self.client = httpx.AsyncClient(base_url=self.url, timeout=10)
        self.streams = self.server._broadcast

    async def get(self, path: str) -> httpx.Response:
        return await self.client.get(path)

    async def connect(self, data: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(*self.address)
        writer.write(data)
        return reader, writer

    async def until_clients(self, number: int) -> None:
        async with asyncio.timeout(10):
            while self.streams.clients != number:
                await self.get("/livez")

    async def last_connection_closed(self) -> bool:
        retry = asyncio.Event()
        open_ones = self.server._server.server_state.connections
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(10):
                while open_ones:
                    retry.clear()
                    asyncio.get_running_loop().call_later(INTERVAL_S, retry.set)
                    await retry.wait()
        return not open_ones

    async def close(self) -> None:
        await self.client.aclose()
        self.server.stop()
        await asyncio.wait_for(self.running, 10)


@pytest_asyncio.fixture
async def admin(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Admin]:
    monkeypatch.setattr(server, "STATUS_INTERVAL_S", INTERVAL_S)
    admin = Admin()
    yield admin
    await admin.close()


async def test_routes(admin: Admin) -> None:
    assert (await admin.get("/livez")).text == "ok"
    assert (await admin.get("/")).headers["content-type"].startswith("text/html")
    assert (await admin.get("/metrics")).headers["content-type"].startswith("text/plain; version=")
    for path, record in (
        ("/readyz", Readiness),
        ("/status", ReceiverStatus),
        ("/status/history", History),
    ):
        answer = await admin.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        msgspec.json.decode(answer.content, type=record)


@pytest.mark.parametrize("path", ["/nothing", "/livez/", "/page/index.html", "/../server.py"])
async def test_other_paths_are_not_found(admin: Admin, path: str) -> None:
    assert (await admin.get(path)).status_code == 404


async def test_only_get_and_head_are_allowed(admin: Admin) -> None:
    for path in ("/", "/livez", "/readyz", "/metrics", "/status", "/status/history", "/events"):
        assert (await admin.client.post(path, content=b"x")).status_code == 405
        head = await admin.client.head(path)
        assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize("path", ["/", "/status", "/nothing", "/events"])
async def test_headers(admin: Admin, path: str) -> None:
    headers = (await admin.client.head(path)).headers
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"].startswith("default-src 'none';")
    assert "server" not in headers
    assert not [name for name in headers if name.startswith("access-control-")]


def test_the_policy_allows_the_scripts_of_the_page(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    page = tmp_path_factory.mktemp("page") / "index.html"
    page.write_text("<style>b{}</style><script>alert(1)</script>")
    monkeypatch.setattr(server, "_PAGE", page)
    _, policy = server._read_page()
    # printf 'alert(1)' | openssl dgst -sha256 -binary | base64
    assert "script-src 'sha256-bhHHL3z2vDgxUt0W3dWQOrprscmda2Y5pLsLg4GF+pI='" in policy


async def test_readyz_and_livez_fail_with_503(admin: Admin) -> None:
    admin.bench.health.states["storage"] = "failed"
    answer = await admin.get("/readyz")
    assert answer.status_code == 503
    assert not answer.json()["ready"]
    assert (await admin.get("/livez")).status_code == 200
    admin.restart_reason = "no receiving process has responded for 61 s"
    answer = await admin.get("/livez")
    assert (answer.status_code, answer.text) == (503, admin.restart_reason)


async def test_an_error_in_a_request_is_logged(
    admin: Admin, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(admin.bench.board, "history", lambda: 1 / 0)
    assert (await admin.get("/status/history")).status_code == 500
    assert [record.name for record in caplog.records] == ["oxidicom.admin"]
    assert (await admin.get("/livez")).status_code == 200


async def test_an_error_in_an_update_does_not_end_the_updates(
    admin: Admin, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sample, continued = admin.bench.board.sample, asyncio.Event()
    faults = 2

    def fails_first() -> None:
        nonlocal faults
        if faults:
            faults -= 1
            raise ZeroDivisionError
        sample()
        continued.set()

    monkeypatch.setattr(admin.bench.board, "sample", fails_first)
    async with asyncio.timeout(10):
        await continued.wait()
    assert [record.name for record in caplog.records] == ["oxidicom.admin"], "logged once"


# ---- events --------------------------------------------------------------------------------


@pytest.mark.both_loops
async def test_events(admin: Admin) -> None:
    async with admin.client.stream("GET", "/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines = stream.aiter_lines()
        assert [await anext(lines) for _ in range(2)] == [": ", ""]
        for _ in range(2):
            assert await anext(lines) == "event: status"
            msgspec.json.decode((await anext(lines)).removeprefix("data: "), type=ReceiverStatus)
            assert await anext(lines) == ""
    await admin.until_clients(0)


async def test_a_frame_is_encoded_once_for_all_clients(
    admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = 0
    status = admin.bench.board.status

    def counted() -> ReceiverStatus:
        nonlocal made
        made += 1
        return status()

    monkeypatch.setattr(admin.bench.board, "status", counted)
    async with contextlib.AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(admin.client.stream("GET", "/events")) for _ in range(5)
        ]
        await admin.until_clients(5)
        before, frames = made, 0
        while frames < 3:
            await admin.streams.next()
            frames += 1
        # A further frame may have been encoded in the meantime; five clients share each.
        assert frames <= made - before < 5 * frames
        for stream in streams:
            assert await anext(stream.aiter_lines()) == ": "


@pytest.mark.both_loops
async def test_streams_end_with_the_server(admin: Admin) -> None:
    async with admin.client.stream("GET", "/events") as stream:
        lines = stream.aiter_lines()
        await anext(lines)
        admin.server.stop()
        async with asyncio.timeout(10):
            async for _ in lines:  # to its regular end: a cut one would raise
                pass
    await asyncio.wait_for(admin.running, 10)


async def test_the_number_of_event_clients_is_bounded(
    admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_EVENT_CLIENTS", 2)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(admin.client.stream("GET", "/events"))
        assert (await admin.get("/events")).status_code == 503
        assert (await admin.get("/livez")).status_code == 200
    await admin.until_clients(0)


@pytest.mark.both_loops
async def test_a_client_that_does_not_read_is_disconnected(
    admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "EVENT_WRITE_TIMEOUT_S", 0.1)
    monkeypatch.setattr(connections, "PROGRESS_CHECK_INTERVAL_S", 0.1)
    monkeypatch.setattr(admin.server, "_encode", lambda _: bytes(1 << 20))
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.setblocking(False)
        await asyncio.get_running_loop().sock_connect(deaf, admin.address)
        deaf.send(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        await admin.until_clients(1)
        await admin.until_clients(0)
        await admin.client.aclose()
        # What was sent to it does not linger either.
        assert await admin.last_connection_closed()


# ---- connections ---------------------------------------------------------------------------


@pytest.mark.both_loops
@pytest.mark.parametrize("said", [b"", b"GET /livez HTTP/1.1\r\nHost:", b"\r\n\r\n"])
async def test_a_connection_without_a_complete_request_is_closed(
    admin: Admin, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    monkeypatch.setattr(connections, "PROGRESS_CHECK_INTERVAL_S", 0.05)
    reader, writer = await admin.connect(said)
    with contextlib.suppress(ConnectionResetError):
        answer = await asyncio.wait_for(reader.read(), 10)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 400")
    writer.close()


async def test_an_event_stream_is_not_closed_as_idle(
    admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "PROGRESS_CHECK_INTERVAL_S", INTERVAL_S)
    async with admin.client.stream("GET", "/events") as stream:
        lines = stream.aiter_lines()
        for _ in range(3 * 8):  # eight retry or more
            await anext(lines)


@pytest.mark.both_loops
async def test_the_oldest_idle_connection_is_closed_when_there_are_too_many(
    admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 5)
    idle: list[Any] = [await admin.connect() for _ in range(20)]
    assert (await admin.get("/livez")).status_code == 200
    oldest, _ = idle[0]
    with contextlib.suppress(ConnectionResetError):
        assert await asyncio.wait_for(oldest.read(), 10) == b""
    assert len(admin.server._server.server_state.connections) <= 5
    for _, writer in idle:
        writer.close()
