"""A Celery worker with CUBE's settings runs registrations from Redis (decision 33)."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartRedis
from tests.support.brokers import RedisServer
from tests.support.cube_worker import cube_worker
from tests.support.redis_lists import admin, lists, publisher
from tests.support.registrations import FIELDS, numbered, registration

QUEUE = "main2"


@pytest.fixture
def server(private_redis: StartRedis) -> Iterator[RedisServer]:
    """A private server, so that every key in it is known."""
    with private_redis() as server:
        yield server


async def prefetched(server: RedisServer, count: int, left: int) -> None:
    """Return whether the worker has prefetched so many messages and the queue has the rest."""
    with admin(server) as client:
        async with asyncio.timeout(20):
            while (client.hlen("unacked"), client.llen(QUEUE)) != (count, left):  # noqa: ASYNC110
                await asyncio.sleep(0.02)


async def test_cubes_task_is_called_once_with_our_fields(
    server: RedisServer, tmp_path: Path
) -> None:
    bare = registration(
        1, patient_name="", patient_birth_date="", patient_sex="U", series_description=None
    )
    absent = ("PatientName", "PatientBirthDate", "PatientSex", "SeriesDescription")
    sent: dict[str, dict[str, Any]] = {}
    async with (
        publisher(server.url, QUEUE) as ours,
        cube_worker(server, QUEUE, tmp_path, "threads") as worker,
    ):
        for what, fields in (
            (registration(), FIELDS),
            (bare, FIELDS | dict.fromkeys(absent) | {"ndicom": 1}),
            (registration(patient_name="Müller^Jürgen=山田^太郎"), None),
        ):
            task_id = str(uuid.uuid4())
            await ours.publish(what, task_id)
            expected = fields or FIELDS | {"PatientName": "Müller^Jürgen=山田^太郎"}
            sent[task_id] = expected | {"task_id": task_id}
        for _ in range(len(sent)):
            call = await worker.run()
            assert call == sent.pop(call["task_id"])
        assert sent == {}
        await worker.shut_down_warmly()
        assert await worker.ended() == 0
    log = (tmp_path / "worker.log").read_text()
    assert log.count(" succeeded in ") == 3, "and nothing was called twice"
    assert FIELDS["SeriesInstanceUID"] in log, "kwargsrepr is what the worker logs"
    assert FIELDS["PatientName"] not in log.replace(FIELDS["path"], "")
    with admin(server) as client:
        assert client.hlen("unacked") == 0
    assert lists(server) == {}


async def test_a_worker_that_is_shut_down_leaves_the_rest_in_cubes_queue(
    server: RedisServer, tmp_path: Path
) -> None:
    async with publisher(server.url, QUEUE) as ours:
        for number in range(6):
            await ours.publish(numbered(number), str(uuid.uuid4()))
    async with cube_worker(server, QUEUE, tmp_path, "prefork") as worker:
        _, first = await worker.called()
        await prefetched(server, 4, left=1)
        await worker.shut_down_warmly()
        worker.answer(first)
        assert await worker.ended() == 0
    assert lists(server) == {QUEUE: 5}
    with admin(server) as client:
        assert client.hlen("unacked") == 0

    # And the next worker runs what the first one put back.
    again = tmp_path / "again"
    again.mkdir()
    async with cube_worker(server, QUEUE, again, "threads") as worker:
        calls = [await worker.run() for _ in range(5)]
    assert len({call["SeriesInstanceUID"] for call in calls}) == 5
