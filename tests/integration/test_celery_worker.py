"""A Celery worker with CUBE's settings runs registrations from RabbitMQ (decision 33)."""

from __future__ import annotations

import uuid
from pathlib import Path

import aio_pika
import aiormq.exceptions
import pytest

from oxidicom.notify.amqp import AmqpPublisher
from tests.support.brokers import RabbitMQ
from tests.support.cube_worker import cube_worker
from tests.support.registrations import FIELDS, numbered, registration


async def depth(broker: RabbitMQ, queue: str) -> int | None:
    """Return the number of messages in the queue; None if there is no such queue."""
    connection = await aio_pika.connect(broker.url)
    try:
        channel = connection.channel()
        await channel.initialize()
        declared = await channel.declare_queue(queue, passive=True)
    except aiormq.exceptions.ChannelNotFoundEntity:
        return None
    else:
        return declared.declaration_result.message_count
    finally:
        await connection.close()


@pytest.fixture
def short_path(tmp_path: Path) -> Path:
    """Return a short path, as Unix sockets need."""
    assert len(str(tmp_path)) < 90
    return tmp_path


async def test_cubes_task_is_called_with_our_fields(rabbitmq: RabbitMQ, short_path: Path) -> None:
    queue = f"main2-{uuid.uuid4()}"
    task_ids = [str(uuid.uuid4()) for _ in range(2)]
    bare = registration(
        1, patient_name="", patient_birth_date="", patient_sex="U", series_description=None
    )
    publisher = AmqpPublisher(rabbitmq.url, queue)
    async with cube_worker(rabbitmq, queue, short_path, "threads") as worker:
        await publisher.publish(registration(), task_ids[0])
        await publisher.publish(bare, task_ids[1])
        assert await worker.run() == FIELDS | {"task_id": task_ids[0]}
        absent = ("PatientName", "PatientBirthDate", "PatientSex", "SeriesDescription")
        assert await worker.run() == FIELDS | dict.fromkeys(absent) | {
            "ndicom": 1,
            "task_id": task_ids[1],
        }
        await worker.shut_down_warmly()
        assert await worker.ended() == 0
    await publisher.close()
    log = (short_path / "worker.log").read_text()
    assert f"pacsfiles.tasks.register_pacs_series[{task_ids[0]}] succeeded" in log
    assert FIELDS["SeriesInstanceUID"] in log, "kwargsrepr is what the worker logs"
    assert FIELDS["PatientName"] not in log.replace(FIELDS["path"], "")


async def test_a_worker_that_is_shut_down_leaves_the_rest_in_cubes_queue(
    rabbitmq: RabbitMQ, short_path: Path
) -> None:
    queue = f"main2-{uuid.uuid4()}"
    publisher = AmqpPublisher(rabbitmq.url, queue)
    for number in range(4):
        await publisher.publish(numbered(number), str(uuid.uuid4()))
    async with cube_worker(rabbitmq, queue, short_path, "prefork") as worker:
        _, first = await worker.called()
        assert await depth(rabbitmq, queue) == 0, "the other three are prefetched"
        await worker.shut_down_warmly()
        worker.answer(first)
        assert await worker.ended() == 0
    await publisher.close()
    assert await depth(rabbitmq, queue) == 3
    assert not await depth(rabbitmq, "celery")
