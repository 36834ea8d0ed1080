"""Registrations in a real RabbitMQ, and failures of broker, queue and connection."""

from __future__ import annotations

import asyncio
import json
import shlex
import ssl
import subprocess
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aio_pika
import aiormq.exceptions
import pytest
from aio_pika.abc import AbstractIncomingMessage

from oxidicom.notify import amqp
from oxidicom.notify.amqp import AmqpPublisher
from oxidicom.notify.outbox_relay import OutboxRelay
from oxidicom.notify.outbox_store import Outbox
from tests.support.brokers import Gate, RabbitMQ
from tests.support.ports import free_port
from tests.support.registrations import VECTOR, numbered, registration

TASK_ID = "3b241101-e2bb-4255-8caf-4136c566a962"

LINE_ERRORS = (OSError, aiormq.exceptions.AMQPError, RuntimeError)
"""What the libraries raise for a connection that breaks, depending on the moment."""


@pytest.fixture
def queue() -> str:
    return f"main2-{uuid.uuid4()}"


@asynccontextmanager
async def publisher(url: str, queue: str, ca: Path | None = None) -> AsyncIterator[AmqpPublisher]:
    ours = AmqpPublisher(url, queue, ca)
    try:
        yield ours
    finally:
        await ours.close()


@asynccontextmanager
async def admin(broker: RabbitMQ) -> AsyncIterator[aio_pika.abc.AbstractChannel]:
    connection = await aio_pika.connect(broker.url)
    try:
        yield await channel_of(connection)
    finally:
        await connection.close()


async def channel_of(connection: aio_pika.abc.AbstractConnection) -> aio_pika.abc.AbstractChannel:
    channel = connection.channel()
    await channel.initialize()
    return channel


async def messages(broker: RabbitMQ, queue: str) -> list[AbstractIncomingMessage]:
    """Return the messages of the queue, and empty it."""
    found: list[AbstractIncomingMessage] = []
    async with admin(broker) as channel:
        declared = await channel.declare_queue(queue, passive=True)
        while (message := await declared.get(fail=False)) is not None:
            await message.ack()
            found.append(message)
    return found


def kwargs_of(message: AbstractIncomingMessage) -> dict[str, Any]:
    _, kwargs, _ = json.loads(message.body)
    assert isinstance(kwargs, dict)
    return kwargs


def counts(found: list[AbstractIncomingMessage]) -> list[int]:
    return [kwargs_of(message)["ndicom"] for message in found]


def through(gate: Gate) -> str:
    return f"amqp://guest:guest@127.0.0.1:{gate.port}/"


@pytest.mark.both_loops
async def test_the_message_is_that_of_the_reference(rabbitmq: RabbitMQ, queue: str) -> None:
    async with publisher(rabbitmq.url, queue) as ours:
        await ours.publish(registration(), TASK_ID)
    (message,) = await messages(rabbitmq, queue)
    assert json.loads(message.body) == VECTOR["body"]
    expected = VECTOR["amqp"]["properties"] | {"correlation_id": TASK_ID}
    assert {name: getattr(message, name) for name in expected} == expected
    assert message.exchange == ""
    assert message.routing_key == queue
    assert message.headers["id"] == TASK_ID
    assert message.headers["task"] == VECTOR["task"]
    assert message.headers["timelimit"] == [None, None]
    assert message.headers["parent_id"] is None


async def test_start_declares_the_queue_durable(rabbitmq: RabbitMQ, queue: str) -> None:
    async with publisher(rabbitmq.url, queue) as ours:
        assert await ours.start()
        async with admin(rabbitmq) as channel:
            # Equal arguments, or RabbitMQ would refuse.
            await channel.declare_queue(queue, durable=True)


async def test_start_without_a_broker_logs_a_warning(
    queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with publisher(f"amqp://user:secret@127.0.0.1:{free_port()}/", queue) as ours:
        assert not await ours.start()
        with pytest.raises(OSError):  # noqa: PT011 (whatever the system calls it)
            await ours.publish(registration(), TASK_ID)
    assert "AMQP broker unreachable" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.both_loops
async def test_a_returned_message_is_sent_again(rabbitmq: RabbitMQ, queue: str) -> None:
    async with publisher(rabbitmq.url, queue) as ours:
        await ours.start()
        async with admin(rabbitmq) as channel:
            await channel.queue_delete(queue)
        async with asyncio.TaskGroup() as together:
            for number in range(20):
                together.create_task(ours.publish(numbered(number, number), str(uuid.uuid4())))
    assert sorted(counts(await messages(rabbitmq, queue))) == list(range(20))


@pytest.mark.parametrize(
    "arguments", [{"x-queue-type": "quorum"}, {"x-max-length": 10}, {"x-queue-type": "classic"}]
)
async def test_a_queue_with_other_arguments_is_used_as_it_is(
    rabbitmq: RabbitMQ, queue: str, arguments: dict[str, Any]
) -> None:
    async with admin(rabbitmq) as channel:
        await channel.declare_queue(queue, durable=True, arguments=arguments)
    async with publisher(rabbitmq.url, queue) as ours:
        await ours.publish(registration(3), TASK_ID)
    assert counts(await messages(rabbitmq, queue)) == [3]


async def test_a_full_queue_is_an_error(rabbitmq: RabbitMQ, queue: str) -> None:
    full: dict[str, Any] = {"x-max-length": 1, "x-overflow": "reject-publish"}
    async with admin(rabbitmq) as channel:
        await channel.declare_queue(queue, durable=True, arguments=full)
    async with publisher(rabbitmq.url, queue) as ours:
        await ours.publish(registration(1), str(uuid.uuid4()))
        with pytest.raises(aiormq.exceptions.DeliveryError):
            await ours.publish(registration(2), str(uuid.uuid4()))
        assert counts(await messages(rabbitmq, queue)) == [1]
        await ours.publish(registration(3), str(uuid.uuid4()))
    assert counts(await messages(rabbitmq, queue)) == [3]


@pytest.mark.both_loops
async def test_a_broken_connection_is_replaced(rabbitmq: RabbitMQ, queue: str) -> None:
    async with Gate(rabbitmq.port) as gate, publisher(through(gate), queue) as ours:
        await ours.publish(registration(1), str(uuid.uuid4()))
        await gate.cut()
        # It may fall into a line whose end has not been noticed yet.
        with suppress(*LINE_ERRORS):
            await ours.publish(registration(2), str(uuid.uuid4()))
        await ours.publish(registration(3), str(uuid.uuid4()))
        assert gate.accepted == 2
    found = counts(await messages(rabbitmq, queue))
    assert [count for count in found if count != 2] == [1, 3]


@pytest.mark.both_loops
async def test_a_missing_confirmation_is_an_error(
    rabbitmq: RabbitMQ, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(amqp, "AMQP_PUBLISH_TIMEOUT_S", 0.3)
    monkeypatch.setattr(amqp, "AMQP_CLOSE_TIMEOUT_S", 0.2)
    async with Gate(rabbitmq.port) as gate, publisher(through(gate), queue) as ours:
        await ours.start()
        gate.hold_replies()
        with pytest.raises(TimeoutError):
            await ours.publish(registration(1), TASK_ID)
        assert gate.held.is_set()
        gate.release_replies()
        await ours.publish(registration(1), TASK_ID)
    found = await messages(rabbitmq, queue)
    assert [message.correlation_id for message in found] == [TASK_ID, TASK_ID]


async def test_a_broker_that_accepts_and_never_answers_is_an_error(
    rabbitmq: RabbitMQ, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(amqp, "AMQP_CONNECT_TIMEOUT_S", 0.3)
    async with Gate(rabbitmq.port) as gate, publisher(through(gate), queue) as ours:
        gate.hold_replies()
        with pytest.raises(TimeoutError):
            await ours.publish(registration(1), TASK_ID)


async def test_a_refused_login_is_an_error_without_the_password(
    rabbitmq: RabbitMQ, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with publisher(f"amqp://guest:hunter2@{rabbitmq.address}/", queue) as ours:
        assert not await ours.start()
        with pytest.raises(aiormq.exceptions.AMQPError):
            await ours.publish(registration(1), TASK_ID)
    assert "hunter2" not in caplog.text


@pytest.mark.both_loops
async def test_every_registration_arrives_although_connections_break(
    rabbitmq: RabbitMQ, queue: str, tmp_path: Path
) -> None:
    """If the confirmation is lost, the entry is sent again with the same task id."""
    outbox = Outbox(tmp_path / "outbox", sync=False)
    gate = Gate(rabbitmq.port)
    relay = OutboxRelay(outbox, AmqpPublisher(through(gate), queue))
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
    found = await messages(rabbitmq, queue)
    assert sorted(counts(found)) == [0, 1, 2, 3, 4, 7, 7]
    assert len({message.correlation_id for message in found}) == 6


async def test_a_thousand_registrations_take_seconds(
    rabbitmq: RabbitMQ, queue: str, tmp_path: Path
) -> None:
    relay = OutboxRelay(Outbox(tmp_path / "outbox", sync=False), AmqpPublisher(rabbitmq.url, queue))
    await relay.start()
    async with asyncio.timeout(20):
        submitted = [await relay.submit(numbered(number, number)) for number in range(1000)]
        await asyncio.gather(*submitted)
    assert await relay.stop(1) == 0
    assert sorted(counts(await messages(rabbitmq, queue))) == list(range(1000))


async def test_a_broker_that_is_killed_keeps_what_it_confirmed(tmp_path: Path, queue: str) -> None:
    with RabbitMQ(tmp_path / "rabbitmq") as broker:
        async with publisher(broker.url, queue) as ours:
            await ours.publish(registration(0), str(uuid.uuid4()))
        # What it confirmed is gone with a queue that a kill soon after its first start makes it
        # forget (3.10 on Erlang 25: one kill in fifteen, though the queue is in Mnesia's log).
        await asyncio.to_thread(broker.stop)
        await asyncio.to_thread(broker.start)
        async with publisher(broker.url, queue) as ours:
            for count in range(1, 5):
                await ours.publish(registration(count), str(uuid.uuid4()))
            broker.stop(kill=True)
            with pytest.raises(LINE_ERRORS):
                await ours.publish(registration(5), str(uuid.uuid4()))
            await asyncio.to_thread(broker.start)
            await ours.publish(registration(6), str(uuid.uuid4()))
        assert counts(await messages(broker, queue)) == [0, 1, 2, 3, 4, 6]


class TlsFront:
    """A TLS proxy for the shared RabbitMQ."""

    def __init__(self, target: int, certificate: Path, key: Path) -> None:
        self._target = target
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(certificate, key)

    async def __aenter__(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", ssl=self._context)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far = await asyncio.open_connection("127.0.0.1", self._target)
        await asyncio.gather(pump(reader, far), pump(far_reader, writer))


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def test_tls_is_verified_whatever_the_url_says(
    rabbitmq: RabbitMQ, queue: str, tmp_path: Path
) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    await asyncio.to_thread(
        subprocess.run,
        shlex.split(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
            " -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
            f" -keyout {key} -out {certificate}"
        ),
        check=True,
        capture_output=True,
    )
    async with TlsFront(rabbitmq.port, certificate, key) as port:
        url = f"amqps://guest:guest@127.0.0.1:{port}/"
        async with publisher(url, queue, certificate) as ours:
            await ours.publish(registration(1), TASK_ID)
        for careless in (url, f"{url}?no_verify_ssl=1"):
            async with publisher(careless, queue) as ours:
                with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
                    await ours.publish(registration(2), TASK_ID)
    assert counts(await messages(rabbitmq, queue)) == [1]
