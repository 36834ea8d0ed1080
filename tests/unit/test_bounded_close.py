"""Every close at shutdown ends within its time limit, whatever the other side or a library does."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from oxidicom.cancellation import CANCEL_AGAIN_S, end_tasks, run_within
from oxidicom.notify import amqp, cube_eager, cube_http, lonk_publisher, nats_client, redis
from oxidicom.notify import outbox_relay as relay_module
from oxidicom.notify.amqp import AmqpPublisher
from oxidicom.notify.cube_eager import EagerRegistrar
from oxidicom.notify.cube_http import CubeClient
from oxidicom.notify.lonk_messages import ProgressLimiter
from oxidicom.notify.lonk_publisher import LonkPublisher
from oxidicom.notify.lonk_subscriber import LonkSubscriber
from oxidicom.notify.nats_client import NatsClient
from oxidicom.notify.outbox_relay import OutboxRelay
from oxidicom.notify.outbox_store import Outbox
from oxidicom.ports import Registration
from tests.support.registrations import registration
from tests.support.timing import BUSY_MACHINE_S, WAIT_LIMIT_S

pytestmark = pytest.mark.both_loops

LIMIT_S = 0.2
"""What each close's own time limit is set to."""


@pytest_asyncio.fixture
async def stubborn() -> AsyncIterator[Callable[..., Coroutine[Any, Any, None]]]:
    """A call that swallows cancellations until the test is over."""
    released = False

    async def call(*_: object, **__: object) -> None:
        while not released:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)

    yield call
    released = True


async def ended_in_time(
    close: Coroutine[Any, Any, object], limit: float = 1 + BUSY_MACHINE_S
) -> bool:
    """Return whether `close` ends within `limit` seconds; cancelled once if it does not."""
    task = asyncio.ensure_future(close)
    await asyncio.wait([task], timeout=limit)
    if not task.done():
        task.cancel()
        return False
    await task
    return True


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WAIT_LIMIT_S):
        while not condition():  # noqa: ASYNC110 (what is waited for has no event)
            await asyncio.sleep(0.005)


# ---- the helpers -----------------------------------------------------------------------------


async def test_a_task_that_swallows_cancellations_is_left_behind(stubborn: Any) -> None:
    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    began = time.monotonic()
    assert not await end_tasks([task], LIMIT_S)
    assert time.monotonic() - began < LIMIT_S + BUSY_MACHINE_S
    assert not task.done()


async def test_a_task_that_swallows_one_cancellation_is_cancelled_again() -> None:
    async def swallow_one() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
        await asyncio.sleep(3600)

    task = asyncio.create_task(swallow_one())
    await asyncio.sleep(0)
    assert await end_tasks([task], 5.0)
    assert task.cancelled()


async def test_a_call_that_swallows_cancellations_is_left_behind(stubborn: Any) -> None:
    began = time.monotonic()
    assert not await run_within(stubborn(), LIMIT_S)
    assert time.monotonic() - began < LIMIT_S + BUSY_MACHINE_S


async def test_a_call_that_swallows_cancellations_does_not_keep_its_caller(stubborn: Any) -> None:
    caller = asyncio.create_task(run_within(stubborn(), None))
    await asyncio.sleep(0.01)
    caller.cancel()
    await asyncio.wait([caller], timeout=BUSY_MACHINE_S)
    assert caller.cancelled()


async def test_a_call_that_ends_in_time_returns_or_raises() -> None:
    async def fail() -> None:
        raise ConnectionError("broken")

    assert await run_within(asyncio.sleep(0), LIMIT_S)
    with pytest.raises(ConnectionError):
        await run_within(fail(), LIMIT_S)


@pytest.mark.parametrize("helper", ["end_tasks", "run_within"])
async def test_errors_after_the_caller_was_cancelled_are_not_logged(helper: str) -> None:
    """The loop reports an exception of a task that nothing has retrieved."""
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, report: reports.append(report))

    async def close() -> None:
        if helper == "run_within":
            await run_within(fail_just_then(), None)
        else:
            task = asyncio.create_task(swallow_and_fail())
            await asyncio.sleep(0)
            await end_tasks([task], 60)

    async def fail_just_then() -> None:
        await asyncio.sleep(0.01)
        caller.cancel()
        raise ConnectionError("broken")

    async def swallow_and_fail() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
        caller.cancel()
        await asyncio.sleep(0.01)
        raise ConnectionError("broken")

    caller: Any = asyncio.create_task(close())
    await asyncio.wait([caller])
    assert caller.cancelled()
    await asyncio.sleep(0.05)
    caller = None  # its traceback refers to the task
    gc.collect()
    assert reports == []


# ---- LONK ------------------------------------------------------------------------------------


def lonk_publisher_to(address: str) -> LonkPublisher:
    return LonkPublisher(address, "oxidicom", ProgressLimiter(0.5))


@pytest.mark.parametrize("swallowed", [1, 1000])
async def test_lonk_closes_although_connect_swallows_a_cancellation(
    monkeypatch: pytest.MonkeyPatch, swallowed: int
) -> None:
    connecting = asyncio.Event()
    remaining = swallowed

    async def connect(self: NatsClient, *_: object, **__: object) -> None:
        nonlocal remaining
        connecting.set()
        while remaining > 0:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                remaining -= 1

    monkeypatch.setattr(NatsClient, "connect", connect)
    lonk = lonk_publisher_to("127.0.0.1:1")
    await lonk.start()
    await connecting.wait()
    assert await ended_in_time(lonk.close())
    remaining = 0


async def test_lonk_closes_although_nats_py_is_cancelled_just_when_it_has_connected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`asyncio.wait_for` of Python 3.11 then returns the connection in place of the cancellation.

    nats-py opens its connection through it (TcpTransport.connect).
    """
    writers: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_server(lambda _, writer: writers.append(writer), "127.0.0.1")
    open_connection = asyncio.open_connection
    cancelled = asyncio.Event()

    async def open_connection_and_cancel(*args: Any, **kwargs: Any) -> Any:
        connection = await open_connection(*args, **kwargs)
        # Runs before `wait_for` learns that this call has ended.
        asyncio.get_running_loop().call_soon(cancel_all_but, this_test)
        cancelled.set()
        return connection

    this_test = asyncio.current_task()
    monkeypatch.setattr(asyncio, "open_connection", open_connection_and_cancel)
    lonk = lonk_publisher_to(f"127.0.0.1:{silent.sockets[0].getsockname()[1]}")
    await lonk.start()
    async with asyncio.timeout(WAIT_LIMIT_S):
        await cancelled.wait()
    assert await ended_in_time(lonk.close())
    await until(lambda: writers)
    silent.close()
    for writer in writers:
        writer.transport.abort()


def cancel_all_but(spared: asyncio.Task[Any] | None) -> None:
    for task in asyncio.all_tasks() - {spared}:
        task.cancel()


async def test_lonk_closes_although_its_connection_does_not(
    monkeypatch: pytest.MonkeyPatch, stubborn: Any
) -> None:
    async def connect(self: NatsClient, *_: object, **__: object) -> None:
        return None

    monkeypatch.setattr(NatsClient, "connect", connect)
    monkeypatch.setattr(NatsClient, "close", stubborn)
    monkeypatch.setattr(nats_client, "NATS_CLOSE_TIMEOUT_S", LIMIT_S)
    monkeypatch.setattr(lonk_publisher, "NATS_CLOSE_TIMEOUT_S", LIMIT_S)
    lonk = lonk_publisher_to("127.0.0.1:1")
    await lonk.start()
    await until(lambda: lonk.connected)
    assert await ended_in_time(lonk.close())


async def test_lonk_lets_a_slow_connection_close_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing takes as long as the server needs to take what is unsent."""
    closed = False

    async def connect(self: NatsClient, *_: object, **__: object) -> None:
        return None

    async def close(self: NatsClient) -> None:
        nonlocal closed
        await asyncio.sleep(1.6 * CANCEL_AGAIN_S)
        closed = True

    monkeypatch.setattr(NatsClient, "connect", connect)
    monkeypatch.setattr(NatsClient, "close", close)
    lonk = lonk_publisher_to("127.0.0.1:1")
    await lonk.start()
    await until(lambda: lonk.connected)
    await lonk.close()
    assert closed


async def test_the_lonk_subscriber_ends_although_nats_py_swallows_its_cancellation(
    monkeypatch: pytest.MonkeyPatch, stubborn: Any
) -> None:
    connecting = asyncio.Event()

    async def connect(self: NatsClient, *_: object, **__: object) -> None:
        connecting.set()
        await stubborn()

    monkeypatch.setattr(NatsClient, "connect", connect)
    subscriber = LonkSubscriber("127.0.0.1:1", "oxidicom", lambda _: None, lambda _: None)
    running = asyncio.create_task(subscriber.run())
    await connecting.wait()
    running.cancel()
    await asyncio.wait([running], timeout=3.0)
    assert running.cancelled()


# ---- brokers and CUBE ------------------------------------------------------------------------


class StubbornConnection:
    """A connection of aio_pika or redis whose close never ends."""

    def __init__(self, call: Callable[..., Coroutine[Any, Any, None]]) -> None:
        self.close = self.disconnect = self.aclose = call


async def test_amqp_closes_although_its_connection_does_not(
    monkeypatch: pytest.MonkeyPatch, stubborn: Any
) -> None:
    monkeypatch.setattr(amqp, "AMQP_CLOSE_TIMEOUT_S", LIMIT_S)
    publisher = AmqpPublisher("amqp://127.0.0.1:1", "q")
    publisher._connection = StubbornConnection(stubborn)  # type: ignore[assignment]
    assert await ended_in_time(publisher.close())


async def test_amqp_closes_while_another_call_is_connecting(
    monkeypatch: pytest.MonkeyPatch, stubborn: Any
) -> None:
    monkeypatch.setattr(amqp, "AMQP_CLOSE_TIMEOUT_S", LIMIT_S)
    monkeypatch.setattr(AmqpPublisher, "_connect", stubborn)
    publisher = AmqpPublisher("amqp://127.0.0.1:1", "q")
    connecting = asyncio.create_task(publisher.start())
    await asyncio.sleep(0.01)
    assert await ended_in_time(publisher.close())
    connecting.cancel()


async def test_redis_closes_although_its_connection_does_not(
    monkeypatch: pytest.MonkeyPatch, stubborn: Any
) -> None:
    monkeypatch.setattr(redis, "REDIS_CLOSE_TIMEOUT_S", LIMIT_S)
    publisher = redis.RedisPublisher("redis://127.0.0.1:1", "q")
    publisher._connection = StubbornConnection(stubborn)  # type: ignore[assignment]
    assert await ended_in_time(publisher.close())


async def test_redis_closes_while_a_call_waits_for_its_answer(
    monkeypatch: pytest.MonkeyPatch, stubborn: Any
) -> None:
    monkeypatch.setattr(redis, "REDIS_CLOSE_TIMEOUT_S", LIMIT_S)
    monkeypatch.setattr(redis, "open_connection", stubborn)
    publisher = redis.RedisPublisher("redis://127.0.0.1:1", "q")
    publishing = asyncio.create_task(publisher.start())
    await asyncio.sleep(0.01)
    assert await ended_in_time(publisher.close())
    publishing.cancel()


async def test_the_cube_client_closes_although_httpx_does_not(
    monkeypatch: pytest.MonkeyPatch, stubborn: Any
) -> None:
    monkeypatch.setattr(cube_http, "CUBE_CLOSE_TIMEOUT_S", LIMIT_S)
    client = CubeClient("http://cube/api/v1/", "chris", "secret")
    client._client = StubbornConnection(stubborn)  # type: ignore[assignment]
    assert await ended_in_time(client.close())


async def test_eager_registration_stops_although_a_request_does_not_end(
    monkeypatch: pytest.MonkeyPatch, stubborn: Any
) -> None:
    monkeypatch.setattr(cube_eager, "EAGER_STOP_TIMEOUT_S", LIMIT_S)
    monkeypatch.setattr(EagerRegistrar, "_register_queued", stubborn)
    eager = EagerRegistrar(None, lambda _: None, max_concurrent=1)  # type: ignore[arg-type]
    eager.start()
    await asyncio.sleep(0.01)
    assert await ended_in_time(eager.stop())


class StubbornPublisher:
    """A publisher of which no call ends."""

    def __init__(self, call: Callable[..., Coroutine[Any, Any, None]]) -> None:
        self._call = call
        self.publishing = asyncio.Event()

    async def publish(self, registration: Registration, task_id: str) -> None:
        self.publishing.set()
        await self._call()

    async def close(self) -> None:
        await self._call()


async def test_the_outbox_relay_stops_although_its_publisher_does_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stubborn: Any
) -> None:
    monkeypatch.setattr(relay_module, "RELAY_CLOSE_TIMEOUT_S", LIMIT_S)
    publisher = StubbornPublisher(stubborn)
    relay = OutboxRelay(Outbox(tmp_path / "outbox", sync=False), publisher)
    await relay.start()
    await relay.submit(registration())
    await publisher.publishing.wait()
    assert await ended_in_time(relay.stop(0.01))
    assert Outbox(tmp_path / "outbox", sync=False).depth() == 1
