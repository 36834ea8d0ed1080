"""One registration with CUBE over HTTP: asked, asked again, confirmed or refused (decision 41)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import httpx

from oxidicom.certificates import client_context
from oxidicom.errors import OxidicomError
from oxidicom.notify.cube_responses import BODY_LIMIT, CubeResponse, CubeVerdict, judge
from oxidicom.notify.outbox_relay import RegistrationRefused

TIMEOUT: Final = 30.0
"""Seconds from the first byte of a request to the last one of its answer, connecting included."""

LONGEST_PAUSE: Final = 20.0
"""Seconds between two attempts, which begin with 2 and double."""

_HEADERS: Final = {
    "Accept": "application/json",
    "Accept-Encoding": "identity",  # nothing to inflate
    "User-Agent": "oxidicom",
}


class CubeAway(OxidicomError):
    """CUBE did not take it now; later it may."""


class Retry(NamedTuple):
    """One pause between two attempts."""

    at_ns: int
    """Since the epoch."""
    error: str
    seconds: float


class CubeClient:
    """`url` ends with a slash. At most `at_once` requests are under way, whoever asks for them.

    `ca`: PEM file of the certificates to trust instead of the system's. `sleep` and `clock` are in
    seconds. Made and used on one loop; connects when it is first needed.
    """

    def __init__(
        self,
        url: str,
        username: str,
        password: str,
        *,
        attempts: int = 3,
        at_once: int = 4,
        ca: Path | None = None,
        timeout: float = TIMEOUT,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = url
        self._auth = httpx.BasicAuth(username, password)
        self._attempts = attempts
        self._at_once = at_once
        self._ca = ca
        self._timeout = timeout
        self._sleep = sleep
        self._clock = clock
        self._slots = asyncio.Semaphore(at_once)
        self._connecting = asyncio.Lock()
        self._client: httpx.AsyncClient | None = None
        self._not_before = 0.0
        """The server asked to be left alone until then."""

    async def register(
        self,
        resource: str,
        body: Mapping[str, str | int | None],
        *,
        attempts: int | None = None,
        retries: list[Retry] | None = None,
        traceparent: str | None = None,
    ) -> None:
        """Return once CUBE has it, or had it before. `retries` is told of each pause.
        `traceparent` (W3C Trace Context) goes along, if there is one.

        Raises RegistrationRefused if CUBE never will have it, CubeAway if all `attempts` (by
        default those of the constructor) failed.
        """
        left = self._attempts if attempts is None else attempts
        pause = 1.0
        while True:
            answer = await self._attempt(resource, body, traceparent)
            if answer.verdict is CubeVerdict.DONE:
                return
            if answer.verdict is CubeVerdict.REFUSED:
                raise RegistrationRefused(answer.reason)
            left -= 1
            if left <= 0:
                raise CubeAway(answer.reason)
            pause = min(pause * 2, LONGEST_PAUSE)
            seconds = max(pause, answer.retry_after or 0.0)
            if retries is not None:
                retries.append(Retry(time.time_ns(), answer.reason, seconds))
            await self._sleep(seconds)

    async def _attempt(
        self, resource: str, body: Mapping[str, str | int | None], traceparent: str | None
    ) -> CubeResponse:
        async with self._slots:
            # Whoever asked before, we were put off.
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
            said = b""
            try:
                # Of a success too, although it says nothing more: or the connection is lost.
                said = await _beginning(response)
            except (httpx.HTTPError, OSError):
                if not response.is_success:
                    raise
            after = response.headers.get("retry-after")
            return judge(response.status_code, said, after, time.time())

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
                    limits=httpx.Limits(max_connections=self._at_once),
                )
            return self._client

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()


async def _beginning(response: httpx.Response) -> bytes:
    """As much of the body as we care for."""
    said = bytearray()
    async for chunk in response.aiter_raw():
        said += chunk
        if len(said) >= BODY_LIMIT:
            break
    return bytes(said[:BODY_LIMIT])


def _cause(error: BaseException) -> str:
    """The kinds of an error and of what lies behind it; texts only of what the system says."""
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
