"""Registrations in a real Redis: kombu's form, and failures of server and connection."""

from __future__ import annotations

import asyncio
import socket
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from oxidicom.notify import redis
from oxidicom.notify.celery_message import TASK_NAME
from oxidicom.notify.outbox_relay import OutboxRelay
from oxidicom.notify.outbox_store import Outbox
from oxidicom.notify.redis import RedisPublisher
from tests.conftest import StartRedis
from tests.support.brokers import Gate, RedisServer
from tests.support.ports import free_port
from tests.support.redis_lists import LINE_ERRORS, admin, counts, envelopes, publisher
from tests.support.registrations import FIELDS, VECTOR, numbered, registration

TASK_ID = "3b241101-e2bb-4255-8caf-4136c566a962"


@pytest.fixture
def queue() -> str:
    return f"main2-{uuid.uuid4()}"


def through(gate: Gate) -> str:
    return f"redis://127.0.0.1:{gate.port}"


@pytest.mark.both_loops
async def test_the_envelope_is_that_of_kombu(redis_server: RedisServer, queue: str) -> None:
    async with publisher(redis_server.url, queue) as ours:
        await ours.publish(registration(), TASK_ID)
    with Celery(broker=redis_server.url) as celery:
        celery.send_task(TASK_NAME, kwargs=FIELDS, task_id=TASK_ID, queue=queue)
    mine, kombus = envelopes(redis_server, queue)
    assert mine.body == kombus.body == VECTOR["body"]
    assert mine.whole.keys() == kombus.whole.keys()
    assert mine.whole["properties"].keys() == kombus.whole["properties"].keys()
    for one in ("content-type", "content-encoding"):
        assert mine.whole[one] == kombus.whole[one]
    ours_alone = {"reply_to": None}  # no program waits for a result
    for one in mine.whole["properties"].keys() - {"delivery_tag"}:
        expected = (kombus.whole["properties"] | ours_alone)[one]
        assert mine.whole["properties"][one] == expected
    headers = mine.whole["headers"]
    common = headers.keys() - {"origin", "kwargsrepr"}
    assert common <= kombus.whole["headers"].keys()
    assert {name: headers[name] for name in common} == {
        name: kombus.whole["headers"][name] for name in common
    }


async def test_messages_keep_their_order(redis_server: RedisServer, queue: str) -> None:
    async with publisher(redis_server.url, queue) as ours:
        for count in range(3):
            await ours.publish(registration(count), str(uuid.uuid4()))
    assert counts(redis_server, queue) == [0, 1, 2]


@pytest.mark.both_loops
async def test_concurrent_calls_share_one_connection(redis_server: RedisServer, queue: str) -> None:
    async with Gate(redis_server.port) as gate, publisher(through(gate), queue) as ours:
        async with asyncio.TaskGroup() as together:
            together.create_task(ours.start())
            for number in range(100):
                together.create_task(ours.publish(numbered(number, number), str(uuid.uuid4())))
        assert gate.accepted == 1
    assert sorted(counts(redis_server, queue)) == list(range(100))


async def test_start_without_a_broker_logs_a_warning(
    queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with publisher(f"redis://user:secret@127.0.0.1:{free_port()}", queue) as ours:
        assert not await ours.start()
        with pytest.raises(LINE_ERRORS):
            await ours.publish(registration(), TASK_ID)
    assert "Redis broker unreachable" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    ("path", "database"), [("", 0), ("/", 0), ("/0", 0), ("/7", 7), ("/7?db=3", 7)]
)
async def test_the_path_of_the_url_selects_the_database(
    redis_server: RedisServer, queue: str, path: str, database: int
) -> None:
    async with publisher(redis_server.url + path, queue) as ours:
        assert await ours.start()
        await ours.publish(registration(), TASK_ID)
    assert len(envelopes(redis_server, queue, database)) == 1


@pytest.mark.both_loops
async def test_a_broken_connection_is_replaced(redis_server: RedisServer, queue: str) -> None:
    async with Gate(redis_server.port) as gate, publisher(through(gate), queue) as ours:
        await ours.publish(registration(1), str(uuid.uuid4()))
        await gate.cut()
        # It may fall into a line whose end has not been noticed yet.
        with suppress(*LINE_ERRORS):
            await ours.publish(registration(2), str(uuid.uuid4()))
        await ours.publish(registration(3), str(uuid.uuid4()))
        assert gate.accepted == 2
    assert [count for count in counts(redis_server, queue) if count != 2] == [1, 3]


@pytest.mark.both_loops
async def test_a_connection_that_the_server_closed_is_replaced_without_an_error(
    private_redis: StartRedis, queue: str
) -> None:
    with private_redis() as server:
        async with publisher(server.url, queue) as ours:
            await ours.publish(registration(1), str(uuid.uuid4()))
            with admin(server) as client:
                (line,) = [
                    each for each in client.client_list() if each["id"] != str(client.client_id())
                ]
                assert client.client_kill_filter(_id=line["id"]) == 1
            async with asyncio.timeout(5):
                assert ours._connection is not None
                while await redis._is_usable(ours._connection):  # noqa: ASYNC110 (a socket)
                    await asyncio.sleep(0.01)
            await ours.publish(registration(2), str(uuid.uuid4()))
        assert counts(server, queue) == [1, 2]


@pytest.mark.both_loops
async def test_a_missing_answer_is_an_error(
    redis_server: RedisServer, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis, "REDIS_PUBLISH_TIMEOUT_S", 0.3)
    async with Gate(redis_server.port) as gate, publisher(through(gate), queue) as ours:
        await ours.start()
        gate.hold_replies()
        with pytest.raises(TimeoutError):
            await ours.publish(registration(1), TASK_ID)
        assert gate.held.is_set()
        gate.release_replies()
        await ours.publish(registration(1), TASK_ID)
    found = envelopes(redis_server, queue)
    assert [each.task_id for each in found] == [TASK_ID, TASK_ID]
    assert len({each.whole["properties"]["delivery_tag"] for each in found}) == 2


async def test_a_cancelled_call_leaves_no_answer_for_the_next_one(
    redis_server: RedisServer, queue: str
) -> None:
    async with Gate(redis_server.port) as gate, publisher(through(gate), queue) as ours:
        await ours.start()
        gate.hold_replies()
        first = asyncio.create_task(ours.publish(registration(1), str(uuid.uuid4())))
        await gate.held.wait()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        gate.release_replies()
        await ours.publish(registration(2), str(uuid.uuid4()))
        assert gate.accepted == 2
    assert counts(redis_server, queue) == [1, 2]


@pytest.mark.both_loops
async def test_a_server_that_hangs_blocks_no_caller_and_gets_nothing_twice(
    private_redis: StartRedis, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis, "REDIS_PUBLISH_TIMEOUT_S", 0.4)
    monkeypatch.setattr(redis, "REDIS_CONNECT_TIMEOUT_S", 0.2)
    with private_redis() as server:
        async with publisher(server.url, queue) as ours:
            assert await ours.start()
            server.freeze()
            try:
                async with asyncio.timeout(5):
                    for _ in range(4):
                        with pytest.raises(TimeoutError):
                            await ours.publish(registration(1), TASK_ID)
                    attempts = [
                        ours.publish(numbered(number), str(uuid.uuid4())) for number in range(8)
                    ]
                    answers = await asyncio.gather(*attempts, return_exceptions=True)
                    assert all(isinstance(answer, TimeoutError) for answer in answers)
                    assert not await ours.start()
            finally:
                server.thaw()
            await ours.publish(registration(2), str(uuid.uuid4()))
        # Only the first attempt had a connection; the server answered none of the later ones.
        assert counts(server, queue) == [1, 2]


@pytest.mark.both_loops
async def test_every_registration_arrives_although_connections_break(
    redis_server: RedisServer, queue: str, tmp_path: Path
) -> None:
    """If the confirmation is lost, the entry is sent again with the same task id."""
    outbox = Outbox(tmp_path / "outbox", sync=False)
    gate = Gate(redis_server.port)
    relay = OutboxRelay(outbox, RedisPublisher(through(gate), queue))
    await relay.start()
    queued = [await relay.submit(numbered(number, number)) for number in range(5)]
    await gate.open()
    await asyncio.gather(*queued)
    assert outbox.depth() == 0

    gate.hold_replies()
    cut = await relay.submit(numbered(7, 7))
    await gate.held.wait()
    assert outbox.depth() == 1
    await gate.cut()
    gate.release_replies()
    await cut
    assert await relay.stop(5) == 0
    await gate.shut()
    found = envelopes(redis_server, queue)
    assert sorted(each.kwargs["ndicom"] for each in found) == [0, 1, 2, 3, 4, 7, 7]
    assert len({each.task_id for each in found}) == 6


async def test_a_thousand_registrations_take_seconds(
    redis_server: RedisServer, queue: str, tmp_path: Path
) -> None:
    outbox = Outbox(tmp_path / "outbox", sync=False)
    relay = OutboxRelay(outbox, RedisPublisher(redis_server.url, queue))
    await relay.start()
    async with asyncio.timeout(20):
        submitted = [await relay.submit(numbered(number, number)) for number in range(1000)]
        await asyncio.gather(*submitted)
    assert await relay.stop(1) == 0
    assert sorted(counts(redis_server, queue)) == list(range(1000))


@pytest.mark.both_loops
@pytest.mark.parametrize("kill", [False, True])
async def test_a_server_that_is_restarted_under_load_loses_nothing(
    private_redis: StartRedis, queue: str, tmp_path: Path, kill: bool
) -> None:
    outbox = Outbox(tmp_path / "outbox", sync=False)
    with private_redis("--appendonly", "yes", "--appendfsync", "always") as server:
        relay = OutboxRelay(outbox, RedisPublisher(server.url, queue))
        await relay.start()
        submitted = []
        for number in range(300):
            submitted.append(await relay.submit(numbered(number, number)))
            if number == 150:
                await submitted[100]
                await asyncio.to_thread(server.stop, kill=kill)
            if number == 200:
                assert not submitted[-1].done()
                await asyncio.to_thread(server.start)
        async with asyncio.timeout(20):
            await asyncio.gather(*submitted)
        assert await relay.stop(5) == 0
        assert outbox.depth() == 0
        kept = {each.task_id: each for each in envelopes(server, queue)}
    assert sorted(each.kwargs["ndicom"] for each in kept.values()) == list(range(300))


async def test_the_connection_has_tcp_keep_alive(redis_server: RedisServer, queue: str) -> None:
    """So a firewall does not drop the connection, and a dead machine is noticed."""
    async with publisher(redis_server.url, queue) as ours:
        await ours.start()
        assert ours._connection is not None
        writer: Any = ours._connection._writer
        line = writer.get_extra_info("socket")
        assert line.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert line.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 20
