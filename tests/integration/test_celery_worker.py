"""A real Celery worker, set up as CUBE's, runs what we publish (decision 33)."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aio_pika
import aiormq.exceptions
import pytest

from oxidicom.notify.amqp import AmqpPublisher
from tests.support.brokers import RabbitMQ
from tests.support.registrations import FIELDS, numbered, registration

# The signature is that of CUBE's chris_backend/pacsfiles/tasks.py. Each call is told to the test,
# and returns when the test answers.
WORKER = """
import json, os, socket
from celery import Celery

app = Celery("cube", broker=os.environ["BROKER"])
app.conf.task_default_queue = "celery"


@app.task(name="pacsfiles.tasks.register_pacs_series")
def register_pacs_series(
    PatientID, StudyDate, StudyInstanceUID, SeriesInstanceUID, pacs_name, path, ndicom,
    PatientName=None, PatientBirthDate=None, PatientAge=None, PatientSex=None,
    AccessionNumber=None, Modality=None, ProtocolName=None, StudyDescription=None,
    SeriesDescription=None,
):
    call = dict(locals())
    call["task_id"] = register_pacs_series.request.id
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(os.environ["TEST_SOCKET"])
        line.sendall(json.dumps(call).encode() + b"\\n")
        line.recv(1)
"""


class CubeWorker:
    """The calls it runs, one at a time, each under way until it is answered."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self.log = log
        self._calls: asyncio.Queue[tuple[dict[str, Any], asyncio.StreamWriter]] = asyncio.Queue()

    async def on_call(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._calls.put((json.loads(await reader.readline()), writer))

    async def called(self) -> tuple[dict[str, Any], asyncio.StreamWriter]:
        async with asyncio.timeout(20):
            return await self._calls.get()

    async def run(self) -> dict[str, Any]:
        call, writer = await self.called()
        self.answer(writer)
        return call

    @staticmethod
    def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"!")
        writer.close()

    async def shut_down_warmly(self) -> None:
        """Return when it waits for nothing but the task under way."""
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            while "Worker: Stopping Pool" not in self.log.read_text():  # noqa: ASYNC110 (a log)
                await asyncio.sleep(0.02)

    async def ended(self) -> int:
        async with asyncio.timeout(20):
            return await self.process.wait()


@asynccontextmanager
async def cube_worker(
    broker: RabbitMQ, queue: str, folder: Path, pool: str
) -> AsyncIterator[CubeWorker]:
    (folder / "cube.py").write_text(WORKER)
    socket_path = folder / "s"
    log = folder / "worker.log"
    with open(log, "wb") as output:  # noqa: ASYNC230 (a local file)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "celery", "-A", "cube", "worker", "-Q", queue),
            *("-P", pool, "-c", "1", "-l", "DEBUG"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat"),
            cwd=folder,
            env={**os.environ, "BROKER": broker.url, "TEST_SOCKET": str(socket_path)},
            stdout=output,
            stderr=output,
        )
    worker = CubeWorker(process, log)
    listener = await asyncio.start_unix_server(worker.on_call, socket_path)
    try:
        yield worker
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        listener.close()


async def depth(broker: RabbitMQ, queue: str) -> int | None:
    """Messages in the queue; None if there is no such queue."""
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
    """Unix sockets have short names."""
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
