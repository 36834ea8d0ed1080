"""The CUBE client with a real HTTP server that fails as a test demands (decision 41)."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from oxidicom.notify.cube_http import CubeClient, CubeUnavailableError, Retry
from oxidicom.notify.cube_responses import MAX_RETRY_AFTER_S
from oxidicom.notify.publisher import RegistrationRefusedError
from tests.support.cube_http import (
    CUT,
    DUPLICATE,
    DUPLICATE_SERIES,
    HANG,
    PASSWORD,
    RESET,
    USERNAME,
    Cube,
    Reply,
)
from tests.support.ports import free_port

pytestmark = pytest.mark.both_loops

BODY: dict[str, Any] = {"path": "SERVICES/PACS/P/ü", "PatientAge": 3}


@pytest.fixture
def cube() -> Iterator[Cube]:
    with Cube() as cube:
        yield cube


class Time:
    """A clock that advances by its sleeps only."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


@asynccontextmanager
async def client_of(
    url: str, time: Time | None = None, **options: Any
) -> AsyncIterator[CubeClient]:
    time = time or Time()
    login = {"username": USERNAME, "password": PASSWORD}
    client = CubeClient(url, **{**login, "sleep": time.sleep, "clock": time.clock, **options})
    try:
        yield client
    finally:
        await client.close()


async def test_a_registration_is_one_request(cube: Cube) -> None:
    async with client_of(cube.url) as client:
        await client.register("pacsfiles/", BODY)
    assert cube.taken == [("pacsfiles/", BODY)]
    assert cube.traceparents == [None]


async def test_every_attempt_carries_the_trace_context(cube: Cube) -> None:
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    cube.next.append(Reply(503))
    async with client_of(cube.url) as client:
        await client.register("pacsfiles/", BODY, traceparent=traceparent)
        await client.register("pacsfiles/", BODY | {"path": "another"})
    assert cube.traceparents == [traceparent, traceparent, None]


@pytest.mark.parametrize(
    "reply",
    [
        Reply(200, b""),
        Reply(201, b"<html>\xff"),
        Reply(202, {"id": 1}),
        Reply(201, b"x" * 10_000_000),
        CUT,
        Reply(400, DUPLICATE),
        Reply(400, DUPLICATE_SERIES),
    ],
)
async def test_success_and_existing_registrations_are_accepted(cube: Cube, reply: Reply) -> None:
    cube.next.append(reply)
    async with client_of(cube.url) as client:
        await client.register("pacsfiles/", BODY)
        assert len(cube.requests) == 1
        await client.register("pacsfiles/", BODY)
    assert len(cube.taken) == 1


@pytest.mark.parametrize(
    "reply",
    [
        *(Reply(status, b"Doe^Jane") for status in (500, 502, 503, 504, 507, 408, 409, 429)),
        *(Reply(status, {"detail": "Doe^Jane"}) for status in (401, 403)),
        RESET,
    ],
)
async def test_temporary_errors_are_tried_again(cube: Cube, reply: Reply) -> None:
    time = Time()
    cube.next.extend([reply, reply])
    retries: list[Retry] = []
    async with client_of(cube.url, time) as client:
        await client.register("pacsfiles/", BODY, retries=retries)
    assert len(cube.requests) == 3
    assert cube.taken == [("pacsfiles/", BODY)]
    assert time.slept == [2, 4]
    assert [retry.seconds for retry in retries] == [2, 4]
    assert not any("Doe" in retry.error for retry in retries)


async def test_pauses_double_up_to_their_limit_and_attempts_end(cube: Cube) -> None:
    time = Time()
    cube.always = Reply(500)
    async with client_of(cube.url, time, attempts=7) as client:
        with pytest.raises(CubeUnavailableError, match="CUBE answers 500"):
            await client.register("pacsfiles/", BODY)
    assert time.slept == [2, 4, 8, 16, 20, 20]
    assert len(cube.requests) == 7


async def test_retry_after_delays_all_requests(cube: Cube) -> None:
    time = Time()
    cube.next.append(Reply(429, None, {"Retry-After": "9"}))
    async with client_of(cube.url, time) as client:
        with pytest.raises(CubeUnavailableError):
            await client.register("pacsfiles/", BODY, attempts=1)
        assert time.now == 100
        await client.register("pacsfiles/", BODY)
    assert time.slept == [9]


async def test_retry_after_is_limited(cube: Cube) -> None:
    time = Time()
    cube.next.append(Reply(503, None, {"Retry-After": "86400"}))
    async with client_of(cube.url, time) as client:
        await client.register("pacsfiles/", BODY)
    assert time.slept == [MAX_RETRY_AFTER_S]


@pytest.mark.parametrize("status", [400, 404, 405, 415])
async def test_a_refusal_is_raised_at_once(cube: Cube, status: int) -> None:
    cube.next.append(Reply(status, {"PatientSex": ["Doe^Jane is no choice"]}))
    async with client_of(cube.url) as client:
        with pytest.raises(RegistrationRefusedError, match=f"{status}.*PatientSex") as refusal:
            await client.register("pacsfiles/", BODY)
    assert "Doe" not in str(refusal.value)
    assert len(cube.requests) == 1


async def test_a_response_is_read_up_to_its_limit(cube: Cube) -> None:
    """The words that would make it a duplicate come after the limit."""
    cube.next.append(Reply(400, b"x" * 5_000_000 + b"already registered"))
    async with client_of(cube.url) as client:
        with pytest.raises(RegistrationRefusedError):
            await client.register("pacsfiles/", BODY)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_the_login_does_not_follow_a_redirection(cube: Cube, status: int) -> None:
    with Cube() as elsewhere:
        cube.always = Reply(status, b"", {"Location": elsewhere.url + "pacsfiles/"})
        async with client_of(cube.url) as client:
            with pytest.raises(CubeUnavailableError, match="CHRIS_URL"):
                await client.register("pacsfiles/", BODY)
        assert elsewhere.requests == []
    assert len(cube.requests) == 3


async def test_a_wrong_password_is_an_error_and_not_a_refusal(cube: Cube) -> None:
    async with client_of(cube.url, password="wrong") as client:
        with pytest.raises(CubeUnavailableError, match="correct CHRIS_USERNAME and CHRIS_PASSWORD"):
            await client.register("pacsfiles/", BODY)
    assert cube.requests == []


async def test_a_request_that_hangs_is_cancelled_and_tried_again(cube: Cube) -> None:
    cube.next.append(HANG)
    async with client_of(cube.url, timeout=0.3) as client:
        await client.register("pacsfiles/", BODY)
    assert len(cube.taken) == 1


async def test_an_unreachable_server_is_an_error() -> None:
    async with client_of(f"http://127.0.0.1:{free_port()}/api/v1/") as client:
        with pytest.raises(CubeUnavailableError, match="cannot be reached, ConnectError"):
            await client.register("pacsfiles/", BODY)


async def test_unreadable_certificates_are_an_error(tmp_path: Path) -> None:
    async with client_of("https://127.0.0.1:1/", ca=tmp_path / "none.pem") as client:
        with pytest.raises(CubeUnavailableError, match="No such file"):
            await client.register("pacsfiles/", BODY)


async def test_concurrent_requests_are_limited(cube: Cube) -> None:
    async with client_of(cube.url, max_concurrent=3) as client:
        bodies = [{"path": str(number)} for number in range(40)]
        await asyncio.gather(*(client.register("pacsfiles/", body) for body in bodies))
    assert sorted(map(int, cube.paths)) == list(range(40))
    assert cube.most_at_once <= 3


async def test_one_connection_serves_many_registrations(cube: Cube) -> None:
    connections = []
    accept = cube._server.get_request

    def get_request() -> Any:
        connection = accept()
        connections.append(connection)
        return connection

    cube._server.get_request = get_request  # type: ignore[method-assign]
    async with client_of(cube.url, max_concurrent=1) as client:
        for number in range(10):
            await client.register("pacsfiles/", {"path": str(number)})
    assert len(connections) == 1


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Return a self-signed certificate for 127.0.0.1, and its key."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    options = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=test"
    command = ["openssl", *options.split(), "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


async def test_tls_is_verified(tmp_path: Path) -> None:
    tls = await asyncio.to_thread(make_certificate, tmp_path)
    with Cube(tls=tls) as cube:
        async with client_of(cube.url) as client:
            with pytest.raises(CubeUnavailableError, match="SSLCertVerificationError"):
                await client.register("pacsfiles/", BODY)
        assert cube.requests == []
        async with client_of(cube.url, ca=tls[0]) as client:
            await client.register("pacsfiles/", BODY)
    assert len(cube.taken) == 1
