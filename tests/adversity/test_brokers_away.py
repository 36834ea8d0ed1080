"""Brokers that are away for a whole load, and restarts meanwhile (promise 4; decisions 32, 35)."""

from __future__ import annotations

import random
import time
from pathlib import Path

from oxidicom.notify.outbox_relay import MAX_BROKER_DELIVERIES
from tests.adversity.conftest import Figures, Scale
from tests.support.brokers import Broker
from tests.support.receiver import Receiver, wait_until
from tests.support.registration_queue import RegistrationQueue, receiver_of, wait_for_delivery
from tests.support.senders import SMALL, Senders


def send(receiver: Receiver, rng: random.Random, series: int) -> Senders:
    senders = Senders(receiver, rng, each=series // 4, longest=8, sizes=SMALL)
    senders.start()
    return senders


def restart_amid(receiver: Receiver, senders: Senders, series: int, *, kill: bool) -> None:
    """Once so many series have been begun."""
    wait_until(lambda: len(senders.ledger.series) >= series, f"{series} series", 60)
    senders.up.clear()
    if kill:
        receiver.kill()
    else:
        receiver.stop()
    receiver.start()
    senders.up.set()


def test_away_for_the_whole_of_a_load(
    tmp_path: Path,
    broker: Broker,
    rng: random.Random,
    scale: Scale,
    figures: Figures,
    long: bool,
) -> None:
    number = scale(40, 500)
    queue = RegistrationQueue(broker)
    with receiver_of(tmp_path / "files", queue) as receiver:
        senders = send(receiver, rng, number)
        restart_amid(receiver, senders, number // 3, kill=True)
        if long:  # it takes the five seconds of decision 38
            restart_amid(receiver, senders, number * 2 // 3, kill=False)
        ledger = senders.join()
        receiver.wait_for_outbox(len(ledger.series), 60)
        broker.start()
        # A new registration is worth a try before its time.
        ledger.absorb(send(receiver, rng, 4).join())
        back = time.monotonic()
        wait_for_delivery(receiver)
        took = time.monotonic() - back
        assert queue.check(ledger) == 0, "no confirm was cut"

        # Now with confirms that are cut: it takes what is sent, and says nothing before we die.
        broker.freeze()
        more = send(receiver, rng, 12).join()
        receiver.wait_for_outbox(len(more.series), 30)
        receiver.kill()
        broker.thaw()
        receiver.start()
        wait_for_delivery(receiver)
        ledger.absorb(more)
        repeated = queue.check(ledger)
        assert repeated <= MAX_BROKER_DELIVERIES
        assert ledger.check_files(receiver) == len(ledger.sent)
    figures(
        f"{number} series while it was away, delivered in {took:.1f} s, none lost or repeated; "
        f"{repeated} of {len(more.series)} repeated by confirms that a kill cut"
    )
