"""When a series is complete, over a real port (decisions 28 to 31)."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from tests.support import lonk
from tests.support.brokers import NatsServer
from tests.support.data import Instance
from tests.support.lonk import DONE, LonkSubscriber
from tests.support.raw_peer import EXPLICIT, RawPeer, abort
from tests.support.receiver import Receiver

ROOT = "series"

SETTLE = 1.0


@pytest.fixture(scope="module", params=["1", "2"], ids="workers={}".format)
def receiver(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    nats_server: NatsServer,
) -> Iterator[Receiver]:
    with Receiver(
        tmp_path_factory.mktemp("files"),
        OXIDICOM_WORKERS=request.param,
        OXIDICOM_SERIES_SETTLE="1s",
        OXIDICOM_NATS_ADDRESS=nats_server.url,
        OXIDICOM_ROOT_SUBJECT=ROOT,
        OXIDICOM_PROGRESS_INTERVAL="0s",
    ) as receiver:
        receiver.wait_for_log("connected to NATS")
        yield receiver


@pytest.fixture(scope="module")
def progress(nats_server: NatsServer) -> Iterator[LonkSubscriber]:
    with LonkSubscriber(nats_server.url, f"{ROOT}.>") as progress:
        yield progress


def store(peer: RawPeer, instance: Instance) -> None:
    assert peer.store(instance.sop_instance, instance.encode(EXPLICIT)).status == 0


def done(progress: LonkSubscriber, instance: Instance) -> list[bytes]:
    return progress.wait_for(lonk.subject("RAWPEER", instance.series, ROOT))


def series_of(count: int) -> list[Instance]:
    series = Instance().series
    return [Instance(series=series, number=number) for number in range(1, count + 1)]


def test_a_series_over_two_associations_in_turn_is_registered_once(
    receiver: Receiver, progress: LonkSubscriber
) -> None:
    instances = series_of(2)
    for instance in instances:
        with RawPeer(receiver.port) as peer:
            peer.associate()
            store(peer, instance)
            peer.release()
    payloads = done(progress, instances[0])
    assert payloads == [lonk.count(1), lonk.count(2), lonk.count(2), DONE]
    assert receiver.wait_for_registration(instances[0].series)["ndicom"] == 2


def test_an_open_association_keeps_the_series_open(
    receiver: Receiver, progress: LonkSubscriber
) -> None:
    first, second = series_of(2)
    with RawPeer(receiver.port) as long, RawPeer(receiver.port) as short:
        long.associate()
        store(long, first)
        short.associate()
        store(short, second)
        short.release()
        # The silence of a whole settle time ends nothing while `long` is open.
        time.sleep(SETTLE + 0.3)
        assert DONE not in progress.payloads(lonk.subject("RAWPEER", first.series, ROOT))
        released = time.monotonic()
        long.release()
    assert done(progress, first)[-2:] == [lonk.count(2), DONE]
    assert time.monotonic() - released > SETTLE - 0.1
    assert receiver.wait_for_registration(first.series)["ndicom"] == 2


def test_a_series_over_associations_at_once_is_registered_once(
    receiver: Receiver, progress: LonkSubscriber
) -> None:
    instances = series_of(40)

    def send(share: list[Instance]) -> None:
        with RawPeer(receiver.port) as peer:
            peer.associate()
            for instance in share:
                store(peer, instance)
            peer.release()

    threads = [threading.Thread(target=send, args=[instances[n::4]]) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    payloads = done(progress, instances[0])
    assert payloads == [*sorted(payloads[:-1]), DONE], "counts never fall"
    assert payloads[-2] == lonk.count(40)
    assert payloads.count(DONE) == 1
    assert receiver.wait_for_registration(instances[0].series)["ndicom"] == 40


def test_abort_and_resend_is_one_reception(receiver: Receiver, progress: LonkSubscriber) -> None:
    instances = series_of(3)
    with RawPeer(receiver.port) as peer:
        peer.associate()
        store(peer, instances[0])
        store(peer, instances[1])
        peer.send(abort())
    with RawPeer(receiver.port) as peer:
        peer.associate()
        for instance in instances:
            store(peer, instance)
        peer.release()
    assert done(progress, instances[0])[-2:] == [lonk.count(3), DONE]
    assert receiver.wait_for_registration(instances[0].series)["ndicom"] == 3


def test_one_series_of_two_pacs_is_two_series(receiver: Receiver, progress: LonkSubscriber) -> None:
    (instance,) = series_of(1)
    for title in ("ONE", "TWO"):
        with RawPeer(receiver.port) as peer:
            peer.associate(calling=title.encode())
            store(peer, instance)
            peer.release()
    for title in ("ONE", "TWO"):
        progress.wait_for(lonk.subject(title, instance.series, ROOT))
    entries = [
        entry["series"]["pacs_name"]
        for entry in receiver.outbox()
        if entry["series"]["series_instance_uid"] == instance.series
    ]
    assert sorted(entries) == ["ONE", "TWO"]


def test_the_registration_counts_the_files_of_the_folder(
    receiver: Receiver, progress: LonkSubscriber
) -> None:
    # CUBE compares with the folder, so an earlier reception's files count (decision 29).
    first, second, third = series_of(3)
    with RawPeer(receiver.port) as peer:
        peer.associate()
        store(peer, first)
        store(peer, second)
        peer.release()
    done(progress, first)
    assert receiver.wait_for_registration(first.series)["ndicom"] == 2
    with RawPeer(receiver.port) as peer:
        peer.associate()
        store(peer, third)
        store(peer, first)
        peer.release()
    subject = lonk.subject("RAWPEER", first.series, ROOT)
    progress.wait_for_count(subject, DONE, 2)
    # The newer registration replaces the older one that is still in the outbox (decision 32).
    assert receiver.wait_for_registration(first.series)["ndicom"] == 3


def test_two_series_in_one_association_complete_in_order(
    receiver: Receiver, progress: LonkSubscriber
) -> None:
    one, two = series_of(5), series_of(5)
    with RawPeer(receiver.port) as peer:
        peer.associate()
        for first, second in zip(one, two, strict=True):
            store(peer, first)
            store(peer, second)
        peer.release()
    for series in (one, two):
        payloads = done(progress, series[0])
        assert payloads == [*map(lonk.count, (1, 2, 3, 4, 5, 5)), DONE]
        assert receiver.wait_for_registration(series[0].series)["ndicom"] == 5


def test_a_warning_counts_instances_of_another_folder(
    receiver: Receiver, progress: LonkSubscriber
) -> None:
    first, second = series_of(2)
    second.values["PatientName"] = "Other^Name"
    with RawPeer(receiver.port) as peer:
        peer.associate()
        store(peer, first)
        store(peer, second)
        peer.release()
    done(progress, first)
    warnings = [
        record
        for record in receiver.log()
        if record["level"] == "WARN" and record.get("SeriesInstanceUID") == first.series
    ]
    # With their number (decision 26), and without their names (decision 39).
    assert any(1 in record.values() for record in warnings), warnings
    assert "Other" not in "".join(receiver.lines)
