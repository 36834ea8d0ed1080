"""Series sent in unusual ways: one registration, exact counts, one done (decisions 28, 29, 31)."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.adversity.conftest import Figures, Scale
from tests.support import lonk
from tests.support.brokers import NatsServer, RedisServer
from tests.support.data import Instance
from tests.support.lonk import DONE, LonkSubscriber
from tests.support.raw_peer import EXPLICIT, RawPeer, abort, c_store_rq, p_data, pdv
from tests.support.receiver import Receiver, stored_data_set, wait_until
from tests.support.redis_lists import envelopes
from tests.support.senders import instance_of
from tests.support.storing import store

SETTLE = 2.0

Sending = Callable[[int, list[Instance], random.Random], None]


def send(peer: RawPeer, instances: Sequence[Instance]) -> None:
    for instance in instances:
        assert store(peer, instance).status == 0


def four_at_once(port: int, instances: list[Instance], rng: random.Random) -> None:
    together = threading.Barrier(4)

    def send_part(part: list[Instance]) -> None:
        with RawPeer(port) as peer:
            peer.associate()
            together.wait(30)
            send(peer, part)
            peer.release()

    with ThreadPoolExecutor(4) as four:
        list(four.map(send_part, [instances[index::4] for index in range(4)]))


def four_in_a_row(port: int, instances: list[Instance], rng: random.Random) -> None:
    """Each association begins within the settle time of the one before."""
    for index in range(4):
        if index:
            time.sleep(rng.random() * SETTLE / 2)
        with RawPeer(port) as peer:
            peer.associate()
            send(peer, instances[index::4])
            peer.release()


def aborted_and_resent(port: int, instances: list[Instance], rng: random.Random) -> None:
    """Break associations in the middle of an instance, by A-ABORT or by closing; then send all."""
    for _ in range(rng.randint(1, 3)):
        with RawPeer(port) as peer:
            peer.associate()
            done = rng.randrange(len(instances))
            send(peer, instances[:done])
            half = instances[done].encode(EXPLICIT)[: rng.randint(1, 700)]
            command = c_store_rq(instances[done].sop_class, instances[done].sop_instance)
            peer.send(p_data(pdv(1, command, command=True, last=True)))
            peer.send(p_data(pdv(1, half, command=False, last=False)))
            if rng.random() < 0.5:
                peer.send(abort())
    with RawPeer(port) as peer:
        peer.associate()
        send(peer, instances)
        peer.release()


def everything_twice(port: int, instances: list[Instance], rng: random.Random) -> None:
    """Send each instance twice, in random order, over two associations at once."""
    twice = instances * 2
    rng.shuffle(twice)
    with ExitStack() as stack:
        peers = [stack.enter_context(RawPeer(port)) for _ in range(2)]
        for peer in peers:
            peer.associate()
        for instance in twice:
            send(rng.choice(peers), [instance])
        for peer in peers:
            peer.release()


SENDINGS: list[Sending] = [four_at_once, four_in_a_row, aborted_and_resent, everything_twice]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_series_has_one_registration_with_the_exact_count_and_one_done(
    tmp_path: Path,
    nats_server: NatsServer,
    redis_server: RedisServer,
    rng: random.Random,
    scale: Scale,
    figures: Figures,
    workers: int,
) -> None:
    """Several series are sent at once."""
    root = f"sendings{workers}"
    series = [
        (sending, make_series(rng), random.Random(rng.getrandbits(64)))
        for sending in SENDINGS
        for _ in range(scale(2, 50))
    ]
    receiver = Receiver(
        tmp_path,
        OXIDICOM_WORKERS=str(workers),
        OXIDICOM_SERIES_SETTLE=f"{SETTLE}s",
        OXIDICOM_NATS_ADDRESS=nats_server.url,
        OXIDICOM_ROOT_SUBJECT=root,
        OXIDICOM_PROGRESS_INTERVAL="0s",
        OXIDICOM_CELERY_BROKER=f"{redis_server.url}/0",
        OXIDICOM_QUEUE_NAME=root,
    )
    with LonkSubscriber(nats_server.url, f"{root}.>") as progress, receiver:
        with ThreadPoolExecutor(8) as senders:
            for _ in senders.map(lambda each: each[0](receiver.port, each[1], each[2]), series):
                pass
        wait_until(
            lambda: len(envelopes(redis_server, root)) >= len(series), "all registrations", 30
        )
        for _, instances, _ in series:
            check_progress(progress, instances, root)
        receiver.stop()
        for _, instances, _ in series:  # nothing was sent at shutdown
            check_progress(progress, instances, root)
    paths = {instance_of(path): path for path in receiver.files()}
    sent = [instance for _, instances, _ in series for instance in instances]
    assert len(paths) == len(sent)
    for instance in sent:
        assert stored_data_set(paths[instance.sop_instance]) == instance.encode(EXPLICIT)
    told = sorted(
        (each.kwargs["SeriesInstanceUID"], each.kwargs["ndicom"])
        for each in envelopes(redis_server, root)
    )
    assert told == sorted((instances[0].series, len(instances)) for _, instances, _ in series)
    figures(f"{len(series)} series, {len(told)} registrations, all counts exact")


def make_series(rng: random.Random) -> list[Instance]:
    series = Instance().series
    return [
        Instance(series=series, number=number, pixels=2 * rng.randint(350, 20_000))
        for number in range(1, rng.randint(8, 40))
    ]


def check_progress(progress: LonkSubscriber, instances: list[Instance], root: str) -> None:
    subject = lonk.subject("RAWPEER", instances[0].series, root)
    payloads = progress.wait_for(subject, timeout=30)
    assert payloads.count(DONE) == 1
    assert payloads[-2:] == [lonk.count(len(instances)), DONE]
    counts = [int.from_bytes(payload[1:], "little") for payload in payloads[:-1]]
    assert counts == sorted(counts), "a count fell"
