"""SIGTERM and SIGINT (decision 38)."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import lonk
from tests.support.brokers import NatsServer, RabbitMQ
from tests.support.data import Instance
from tests.support.lonk import LonkSubscriber
from tests.support.ports import free_port
from tests.support.raw_peer import (
    ABORT,
    EXPLICIT,
    RELEASE_RP,
    RawPeer,
    c_store_rq,
    p_data,
    pdv,
    release_rq,
)
from tests.support.receiver import Receiver, wait_until
from tests.support.task_queue import TaskQueue
from tests.support.timing import BUSY_MACHINE_S


def store(peer: RawPeer, instance: Instance) -> None:
    assert peer.store(instance.sop_instance, instance.encode(EXPLICIT)).status == 0


def series_of(count: int) -> list[Instance]:
    series = Instance().series
    return [
        Instance(series=series, number=number, pixels=200_000) for number in range(1, count + 1)
    ]


def begin(peer: RawPeer, instance: Instance) -> Callable[[], None]:
    """Send half of an instance; return a function that sends the rest and awaits Success."""
    data_set = instance.encode(EXPLICIT)
    middle = len(data_set) // 2
    command = c_store_rq(instance.sop_class, instance.sop_instance)
    peer.send(p_data(pdv(1, command, command=True, last=True)))
    peer.send(p_data(pdv(1, data_set[:middle], command=False, last=False)))

    def finish() -> None:
        peer.send(p_data(pdv(1, data_set[middle:], command=False, last=True)))
        assert peer.response().status == 0

    return finish


def refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_association_that_sends_may_finish(
    tmp_path: Path, nats_server: NatsServer, number: signal.Signals
) -> None:
    instances = series_of(3)
    subject = lonk.subject("RAWPEER", instances[0].series)
    with (
        LonkSubscriber(nats_server.url) as progress,
        Receiver(tmp_path, OXIDICOM_NATS_ADDRESS=nats_server.url) as receiver,
        RawPeer(receiver.port) as peer,
    ):
        receiver.wait_for_log("connected to NATS")
        peer.associate()
        store(peer, instances[0])
        finish = begin(peer, instances[1])
        receiver.signal(number)
        wait_until(lambda: refuses(receiver.port), "no new connections")
        finish()
        store(peer, instances[2])
        peer.send(release_rq())
        peer.expect(RELEASE_RP)
        peer.close()
        assert receiver.wait() == 0
        (entry,) = receiver.outbox()
        assert entry["ndicom"] == 3
        assert receiver.leftovers() == []
        payloads = progress.wait_for(subject)
        assert payloads[-2:] == [lonk.count(3), lonk.DONE]


def test_an_association_that_is_silent_is_aborted(tmp_path: Path) -> None:
    (instance,) = series_of(1)
    with Receiver(tmp_path) as receiver, RawPeer(receiver.port) as peer:
        peer.associate()
        store(peer, instance)
        started = time.monotonic()
        receiver.signal()
        assert peer.expect(ABORT)[2] == 2
        peer.expect_close()
        peer.close()
        assert receiver.wait() == 0
        assert time.monotonic() - started < 2 + BUSY_MACHINE_S
        (entry,) = receiver.outbox()
        assert entry["ndicom"] == 1


def test_the_settle_time_is_not_waited_for(tmp_path: Path) -> None:
    (instance,) = series_of(1)
    with Receiver(tmp_path, OXIDICOM_SERIES_SETTLE="1h") as receiver:
        with RawPeer(receiver.port) as peer:
            peer.associate()
            store(peer, instance)
            peer.release()
        assert receiver.outbox() == []
        started = time.monotonic()
        receiver.stop()
        assert time.monotonic() - started < BUSY_MACHINE_S
        (entry,) = receiver.outbox()
        assert entry["ndicom"] == 1


def test_a_receiver_without_associations_stops_at_once(tmp_path: Path) -> None:
    with Receiver(tmp_path) as receiver:
        with RawPeer(receiver.port):  # that never associates
            started = time.monotonic()
            receiver.stop()
        assert time.monotonic() - started < BUSY_MACHINE_S


def test_a_sender_that_does_not_end_is_aborted_between_instances(tmp_path: Path) -> None:
    with (
        Receiver(tmp_path, OXIDICOM_DRAIN_TIMEOUT="1s") as receiver,
        RawPeer(receiver.port) as peer,
    ):
        peer.associate()
        series = Instance().series
        acknowledged = 0
        started = time.monotonic()
        receiver.signal()
        while time.monotonic() - started < 30:
            instance = Instance(series=series, number=acknowledged + 1, pixels=50_000)
            try:
                store(peer, instance)
            except (AssertionError, OSError, EOFError):
                break
            acknowledged += 1
        assert 0.8 < time.monotonic() - started < 2 + BUSY_MACHINE_S
        peer.close()
        assert receiver.wait() == 0
        (entry,) = receiver.outbox()
        # The last instance may have been stored without its Success reaching the peer.
        assert acknowledged <= entry["ndicom"] <= acknowledged + 1
        assert len(receiver.files()) == entry["ndicom"]
        assert receiver.leftovers() == []


def test_an_instance_that_does_not_end_is_discarded(tmp_path: Path) -> None:
    (instance,) = series_of(1)
    with (
        Receiver(tmp_path, OXIDICOM_DRAIN_TIMEOUT="1s") as receiver,
        RawPeer(receiver.port) as peer,
    ):
        peer.associate()
        begin(peer, instance)
        started = time.monotonic()
        receiver.signal()
        assert receiver.wait() == 0
        assert time.monotonic() - started < 6 + BUSY_MACHINE_S
        assert receiver.files() == []
        assert receiver.leftovers() == []
        assert receiver.outbox() == []


def test_a_second_signal_ends_the_process_at_once(tmp_path: Path) -> None:
    stored, lost = series_of(2)
    with Receiver(tmp_path, OXIDICOM_INCOMPLETE_SETTLE="500ms") as receiver:
        with RawPeer(receiver.port) as peer:
            peer.associate()
            store(peer, stored)
            begin(peer, lost)
            receiver.signal()
            wait_until(lambda: refuses(receiver.port), "no new connections")
            started = time.monotonic()
            receiver.signal()
            receiver.wait()
            assert time.monotonic() - started < BUSY_MACHINE_S
        # Either the outbox or the journal has it for the next start.
        receiver.start()
        assert receiver.wait_for_registration(stored.series)["ndicom"] == 1
        wait_until(lambda: not receiver.leftovers(), "temporary files swept")
        receiver.stop()


def test_brokers_that_do_not_answer_do_not_delay_the_shutdown(tmp_path: Path) -> None:
    (instance,) = series_of(1)
    # Connections succeed, but no answer ever comes.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with Receiver(
            tmp_path,
            OXIDICOM_AMQP_ADDRESS=f"amqp://guest:guest@{address}/",
            OXIDICOM_NATS_ADDRESS=address,
        ) as receiver:
            with RawPeer(receiver.port) as peer:
                peer.associate()
                store(peer, instance)
                peer.release()
            receiver.wait_for_outbox(1)
            started = time.monotonic()
            receiver.stop()
            assert time.monotonic() - started < 5 + BUSY_MACHINE_S, (
                "the drain time-out has no part in it"
            )
            assert len(receiver.outbox()) == 1


def test_unreachable_brokers_do_not_delay_the_shutdown(tmp_path: Path, rabbitmq: RabbitMQ) -> None:
    (instance,) = series_of(1)
    unreachable = f"amqp://guest:guest@127.0.0.1:{free_port()}/"
    receiver = Receiver(
        tmp_path,
        OXIDICOM_AMQP_ADDRESS=unreachable,
        OXIDICOM_QUEUE_NAME="restarted",
        OXIDICOM_NATS_ADDRESS=f"127.0.0.1:{free_port()}",
    )
    with receiver:
        with RawPeer(receiver.port) as peer:
            peer.associate()
            store(peer, instance)
            peer.release()
        receiver.wait_for_outbox(1)
        started = time.monotonic()
        receiver.stop()
        assert time.monotonic() - started < 5 + BUSY_MACHINE_S
        (entry,) = receiver.outbox()
        assert entry["ndicom"] == 1
    # The next start, with the broker there, delivers it.
    receiver.environment["OXIDICOM_AMQP_ADDRESS"] = rabbitmq.url
    with receiver, TaskQueue(rabbitmq.url, "restarted") as queue:
        wait_until(lambda: receiver.outbox() == [], "the outbox to empty")
        (message,) = queue.take_all()
        assert message.kwargs["SeriesInstanceUID"] == instance.series
