"""Brokers that come and go every other second under load (promises 4 and 7; decisions 35, 37)."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import pytest

from tests.adversity.conftest import Figures, Scale
from tests.conftest import installed
from tests.support.brokers import Broker, NatsServer, RabbitMQ, RedisServer
from tests.support.receiver import Receiver
from tests.support.registration_queue import RegistrationQueue, receiver_of, wait_for_delivery
from tests.support.senders import SMALL, Ledger, Senders


class Restarts(threading.Thread):
    """Takes brokers away and brings them back, every `period` seconds, until left."""

    def __init__(self, brokers: list[Broker], rng: random.Random, period: float) -> None:
        super().__init__(daemon=True)
        self.number = 0
        self._brokers = brokers
        self._rng = rng
        self._period = period
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(self._period):
            for broker in self._brokers:
                broker.stop(kill=self._rng.random() < 0.5)
            time.sleep(self._rng.random() * self._period / 4)
            for broker in self._brokers:
                broker.start()
            self.number += 1

    def __enter__(self) -> Restarts:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join(120)
        assert not self.is_alive()


def rate(receiver: Receiver, rng: random.Random, seconds: float) -> tuple[float, Ledger]:
    """Instances a second."""
    senders = Senders(receiver, rng, longest=8, sizes=SMALL)
    began = time.monotonic()
    senders.start()
    time.sleep(seconds)
    ledger = senders.finish()
    return len(ledger.acknowledged) / (time.monotonic() - began), ledger


@pytest.mark.parametrize(
    "broker",
    [
        pytest.param(RabbitMQ, marks=pytest.mark.long),  # its start alone is longer than 2 s
        RedisServer,
    ],
    ids=["rabbitmq", "redis"],
    indirect=True,
)
def test_restarted_every_two_seconds_under_load(
    tmp_path: Path,
    broker: Broker,
    rng: random.Random,
    scale: Scale,
    figures: Figures,
) -> None:
    installed(NatsServer)
    nats = NatsServer(tmp_path / "nats")
    queue = RegistrationQueue(broker)
    seconds = scale(3, 60)
    with nats:
        broker.start()
        receiver = receiver_of(
            tmp_path / "files",
            queue,
            OXIDICOM_NATS_ADDRESS=nats.url,
            OXIDICOM_PROGRESS_INTERVAL="0s",
        )
        with receiver:
            calm, ledger = rate(receiver, rng, seconds)
            with Restarts([nats, broker], rng, 2) as restarts:
                stormy, more = rate(receiver, rng, seconds)
            wait_for_delivery(receiver, 300)
            ledger.absorb(more)
            repeated = queue.check(ledger)
            assert ledger.check_files(receiver) == len(ledger.sent)
            receiver.stop()
        assert restarts.number >= 1
        assert not ledger.interrupted
        assert not ledger.refused
        # Restarting them costs this machine's processors, too.
        assert stormy > calm / 4
    figures(
        f"{restarts.number} restarts in {seconds} s: {stormy:.0f} instances/s beside {calm:.0f} "
        f"undisturbed ({stormy / calm:.2f}); {len(more.series)} series, none lost, "
        f"{repeated} repeated"
    )
