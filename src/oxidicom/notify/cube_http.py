"""Client for registration with CUBE over HTTP, with repeated attempts (decision 41)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import httpx

from oxidicom.backoff import Backoff
from oxidicom.cancellation import run_within
from oxidicom.certificates import client_context
from oxidicom.errors import OxidicomError
from oxidicom.notify.cube_responses import MAX_RESPONSE_BYTES, CubeResponse, CubeVerdict, judge
from oxidicom.notify.publisher import RegistrationRefusedError

CUBE_REQUEST_TIMEOUT_S: Final = 30.0
"""Seconds from the start of a request to the end of its response, connecting included."""

CUBE_CLOSE_TIMEOUT_S: Final = 2.0
"""Seconds for the connections to CUBE to close."""

CUBE_FIRST_RETRY_S: Final = 2.0
CUBE_GREATEST_RETRY_S: Final = 20.0
"""Seconds between attempts of one registration; doubled from the first to the greatest."""

_HEADERS: Final = {
    "Accept": "application/json",
    "Accept-Encoding": "identity",  # responses are read without decompression
    "User-Agent": "oxidicom",
}


class CubeUnavailableError(OxidicomError):
    """CUBE is unreachable or did not accept the registration; a later attempt may succeed."""


class Retry(NamedTuple):
    """A failed attempt and the pause before the next one."""

    at_ns: int
    """Time of the failure, in nanoseconds since the epoch."""
    error: str
    """Why the attempt failed, without patient data."""
    seconds: float
    """Length of the pause in seconds."""


class CubeClient:
    """A client for one CUBE; it must be created and used on one loop.

    `url` ends with a slash. A registration is attempted `attempts` times. At most `max_concurrent`
    requests are in progress at once. `ca` is a PEM file of the certificates to trust instead of the
    system's; None trusts the system's. `timeout` limits one request; `timeout`, `sleep` and `clock`
    are in seconds. The client connects at the first request.
    """

    def __init__(
        self,
        url: str,
        username: str,
        password: str,
        *,
        attempts: int = 3,
        max_concurrent: int = 4,
        ca: Path | None = None,
        timeout: float = CUBE_REQUEST_TIMEOUT_S,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = url
        self._auth = httpx.BasicAuth(username, password)
        self._attempts = attempts
        self._max_concurrent = max_concurrent
        self._ca = ca
        self._timeout = timeout
        self._sleep = sleep
        self._clock = clock
        self._slots = asyncio.Semaphore(max_concurrent)
        self._connecting = asyncio.Lock()
        self._client: httpx.AsyncClient | None = None
        self._not_before = 0.0
        """Time of `clock` before which no request is sent, because of a Retry-After header."""

    async def register(
        self,
        resource: str,
        body: Mapping[str, str | int | None],
        *,
        attempts: int | None = None,
        retries: list[Retry] | None = None,
        traceparent: str | None = None,
    ) -> None:
        """Send `body` to `resource`, and return once CUBE has the registration or had it before.

        A Retry is appended to `retries` before each pause. `traceparent` (W3C Trace Context) is
        sent as a header if it is not None. Raises RegistrationRefusedError if CUBE will never
        accept the registration, and CubeUnavailableError if all `attempts` (by default the
        constructor's) have failed.
        """
        remaining = self._attempts if attempts is None else attempts
        backoff = Backoff(CUBE_FIRST_RETRY_S, CUBE_GREATEST_RETRY_S)
        while True:
            answer = await self._attempt(resource, body, traceparent)
            if answer.verdict is CubeVerdict.DONE:
                return
            if answer.verdict is CubeVerdict.REFUSED:
                raise RegistrationRefusedError(answer.reason)
            remaining -= 1
            if remaining <= 0:
                raise CubeUnavailableError(answer.reason)
            seconds = max(backoff.failed(), answer.retry_after or 0.0)
            if retries is not None:
                retries.append(Retry(time.time_ns(), answer.reason, seconds))
            await self._sleep(seconds)

    async def _attempt(
        self, resource: str, body: Mapping[str, str | int | None], traceparent: str | None
    ) -> CubeResponse:
        async with self._slots:
            # A Retry-After header in any response delays all further requests.
            while (wait := self._not_before - self._clock()) > 0:
                await self._sleep(wait)
            try:
                async with asyncio.timeout(self._timeout):
                    answer = await self._post(resource, body, traceparent)
            except TimeoutError:
                return CubeResponse(
                    CubeVerdict.AGAIN, f"CUBE does not answer within {self._timeout:.0f} s"
                )
            except (httpx.HTTPError, OSError) as error:
                return CubeResponse(CubeVerdict.AGAIN, f"CUBE cannot be reached, {_cause(error)}")
            if answer.retry_after is not None:
                self._not_before = self._clock() + answer.retry_after
            return answer

    async def _post(
        self, resource: str, body: Mapping[str, str | int | None], traceparent: str | None
    ) -> CubeResponse:
        client = await self._connected()
        headers = {} if traceparent is None else {"traceparent": traceparent}
        async with client.stream(
            "POST", self.url + resource, json=body, headers=headers
        ) as response:
            received = b""
            try:
                # Read after a success, too: otherwise the connection could not be reused.
                received = await _beginning(response)
            except (httpx.HTTPError, OSError):
                if not response.is_success:
                    raise
            after = response.headers.get("retry-after")
            return judge(response.status_code, received, after, time.time())

    async def _connected(self) -> httpx.AsyncClient:
        async with self._connecting:
            if self._client is None:
                context = await asyncio.to_thread(client_context, self._ca)
                self._client = httpx.AsyncClient(
                    auth=self._auth,
                    headers=_HEADERS,
                    verify=context,
                    timeout=self._timeout,
                    follow_redirects=False,
                    limits=httpx.Limits(max_connections=self._max_concurrent),
                )
            return self._client

    async def close(self) -> None:
        """Close the connections; return after CUBE_CLOSE_TIMEOUT_S seconds at the latest."""
        client, self._client = self._client, None
        if client is not None:
            await run_within(client.aclose(), CUBE_CLOSE_TIMEOUT_S)


async def _beginning(response: httpx.Response) -> bytes:
    """Return the body of the response, or its first MAX_RESPONSE_BYTES if it is longer.

    Raises httpx.HTTPError or OSError.
    """
    received = bytearray()
    async for chunk in response.aiter_raw():
        received += chunk
        if len(received) >= MAX_RESPONSE_BYTES:
            break
    return bytes(received[:MAX_RESPONSE_BYTES])


def _cause(error: BaseException) -> str:
    """Return the type names of an error and of up to three causes, separated by colons.

    System errors are followed by their text; texts of others may contain patient data.
    """
    seen: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(seen) < 4:
        kind = type(cause).__name__
        text = (
            f"{kind} ({cause.strerror})" if isinstance(cause, OSError) and cause.strerror else kind
        )
        if text not in seen:
            seen.append(text)
        cause = cause.__cause__ or cause.__context__
    return ": ".join(seen)
