"""A subscriber to everything a NATS server carries, for tests that block."""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType
from typing import NamedTuple, Self

import nats
from nats.aio.msg import Msg

from tests.support.timing import WAIT_LIMIT_S

DONE = b"\0"


class Message(NamedTuple):
    subject: str
    payload: bytes


def count(number: int) -> bytes:
    return b"\1" + number.to_bytes(4, "little")


def error(text: str) -> bytes:
    return b"\2" + text.encode()


def subject(aet: str, series: str, root: str = "oxidicom") -> str:
    """For titles and UIDs that need no sanitising but of dots."""
    return f"{root}.{aet.replace('.', '_')}.{series.replace('.', '_')}"


class LonkSubscriber:
    """Collects messages from entering to leaving, on a loop in a thread of its own."""

    def __init__(self, url: str, subjects: str = ">") -> None:
        self._url = url
        self._subjects = subjects
        self._messages: list[Message] = []
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._main, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait(WAIT_LIMIT_S)
        if self._failure is not None:
            raise self._failure
        assert self._ready.is_set(), "no subscription within 10 s"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(WAIT_LIMIT_S)
        self._loop.close()

    def _main(self) -> None:
        try:
            self._loop.run_until_complete(self._collect())
        except BaseException as failure:
            self._failure = failure
            self._ready.set()

    async def _collect(self) -> None:
        client = await nats.connect(self._url)
        try:
            await client.subscribe(self._subjects, cb=self._on_message)
            await client.flush()
            self._ready.set()
            await self._stop.wait()
        finally:
            await client.close()

    async def _on_message(self, message: Msg) -> None:
        with self._changed:
            self._messages.append(Message(message.subject, message.data))
            self._changed.notify_all()

    def payloads(self, subject: str) -> list[bytes]:
        with self._changed:
            return [message.payload for message in self._messages if message.subject == subject]

    def subjects(self) -> set[str]:
        with self._changed:
            return {message.subject for message in self._messages}

    def wait_for(
        self, subject: str, payload: bytes = DONE, timeout: float = WAIT_LIMIT_S
    ) -> list[bytes]:
        """All of the subject's payloads once `payload` is among them."""
        return self.wait_for_count(subject, payload, 1, timeout)

    def wait_for_count(
        self, subject: str, payload: bytes, times: int, timeout: float = WAIT_LIMIT_S
    ) -> list[bytes]:
        """All of the subject's payloads once `payload` is among them that often."""

        def came() -> bool:
            return self.payloads(subject).count(payload) >= times

        with self._changed:
            assert self._changed.wait_for(came, timeout), (
                f"no {payload!r} on {subject}: {self.payloads(subject)}; {self.subjects()}"
            )
        return self.payloads(subject)
