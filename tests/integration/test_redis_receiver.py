"""A receiver with a Redis that hangs: neither senders nor SIGTERM wait for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import StartRedis
from tests.support.data import Instance
from tests.support.raw_peer import EXPLICIT, RawPeer
from tests.support.receiver import Receiver, wait_until
from tests.support.redis_lists import envelopes, lists


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_redis_that_hangs_delays_neither_senders_nor_shutdown(
    private_redis: StartRedis, tmp_path: Path, workers: str
) -> None:
    def store() -> str:
        instance = Instance()
        with RawPeer(receiver.port) as peer:
            peer.associate()
            assert peer.store(instance.sop_instance, instance.encode(EXPLICIT)).status == 0
            peer.release()
        return instance.series

    root = tmp_path / "files"
    root.mkdir()
    receiver = Receiver(
        root,
        OXIDICOM_WORKERS=workers,
        OXIDICOM_DRAIN_TIMEOUT="1s",
        OXIDICOM_QUEUE_NAME="cube",
    )
    with private_redis() as server:
        receiver.environment["OXIDICOM_CELERY_BROKER"] = f"{server.url}/0"
        with receiver:
            first = store()
            wait_until(lambda: lists(server) == {"cube": 1}, "the first registration")
            server.freeze()
            second = store()
            receiver.wait_for_registration(second)
            receiver.stop()
            assert len(receiver.outbox()) == 1
            assert "PatientName" not in "".join(receiver.lines)
            server.thaw()
            receiver.start()
            wait_until(lambda: receiver.outbox() == [], "the second registration")
        found = envelopes(server, "cube")
    series = [each.kwargs["SeriesInstanceUID"] for each in found]
    assert series[0] == first
    # Once by the first process, whose LPUSH the server executed when it continued, and once by
    # this one.
    assert set(series[1:]) == {second}
    assert len({each.task_id for each in found}) == 2
