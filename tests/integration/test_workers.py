"""A receiver of several processes (OXIDICOM_WORKERS), as users run it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support import lonk
from tests.support.brokers import NatsServer, RabbitMQ
from tests.support.data import Instance
from tests.support.lonk import DONE, LonkSubscriber
from tests.support.raw_peer import EXPLICIT, RawPeer
from tests.support.receiver import Receiver, stored_data_set, wait_until
from tests.support.task_queue import TaskQueue
from tests.support.timing import BUSY_MACHINE_S

ROOT_SUBJECT = "workers"


def series_of(count: int, pixels: int = 512) -> list[Instance]:
    series = Instance().series
    return [Instance(series=series, number=number, pixels=pixels) for number in range(1, count + 1)]


def store(peer: RawPeer, instance: Instance) -> None:
    assert peer.store(instance.sop_instance, instance.encode(EXPLICIT)).status == 0


def associated(receiver: Receiver) -> RawPeer:
    peer = RawPeer(receiver.port)
    peer.associate()
    return peer


def worker_of(receiver: Receiver, peer: RawPeer) -> int:
    pid: int = receiver.worker_of(peer.socket.getsockname()[1]).pid
    return pid


def peers_by_worker(receiver: Receiver, stack: ExitStack) -> dict[int, RawPeer]:
    """An association in each worker, by its process id."""
    peers: dict[int, RawPeer] = {}
    # The next connection goes to the worker that has fewest, unless the machine is busy.
    for _ in range(10 * len(receiver.workers())):
        peer = stack.enter_context(associated(receiver))
        peers.setdefault(worker_of(receiver, peer), peer)
        if len(peers) == len(receiver.workers()):
            return peers
    raise AssertionError(f"all in {list(peers)}")


def files_of(receiver: Receiver, instances: list[Instance]) -> list[Path]:
    uids = {instance.sop_instance for instance in instances}
    return [path for path in receiver.files() if path.name.partition("-")[2][:-4] in uids]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    """A receiver for tests that leave it as they found it."""
    with Receiver(tmp_path_factory.mktemp("files"), OXIDICOM_WORKERS="2") as receiver:
        yield receiver
        assert not receiver.log("worker died")


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Receiver]:
    """A receiver for tests that end it, or one of its processes."""
    with Receiver(tmp_path, OXIDICOM_WORKERS="2", OXIDICOM_INCOMPLETE_SETTLE="1s") as receiver:
        yield receiver


# ---- the same messages for any number of workers ---------------------------------------------


def messages_of(
    receiver: Receiver, progress: LonkSubscriber, queue: TaskQueue, subject: str
) -> tuple[list[bytes], list[dict[str, Any]]]:
    payloads = progress.wait_for(subject)
    messages: list[dict[str, Any]] = []

    def arrived() -> bool:
        messages.extend(message.kwargs for message in queue.take_all())
        return bool(messages)

    wait_until(arrived, "the registration")
    receiver.stop()
    messages.extend(message.kwargs for message in queue.take_all())
    return payloads, messages


@pytest.fixture(scope="module")
def work() -> list[Instance]:
    return series_of(40)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_one_series_over_associations_in_different_workers(
    tmp_path: Path,
    nats_server: NatsServer,
    rabbitmq: RabbitMQ,
    work: list[Instance],
    workers: int,
) -> None:
    root = f"{ROOT_SUBJECT}{workers}"
    receiver = Receiver(
        tmp_path,
        OXIDICOM_WORKERS=str(workers),
        OXIDICOM_NATS_ADDRESS=nats_server.url,
        OXIDICOM_ROOT_SUBJECT=root,
        OXIDICOM_PROGRESS_INTERVAL="0s",
        OXIDICOM_CELERY_BROKER=rabbitmq.url,
        OXIDICOM_QUEUE_NAME=root,
    )
    with (
        LonkSubscriber(nats_server.url, f"{root}.>") as progress,
        receiver,
        TaskQueue(rabbitmq.url, root) as queue,
    ):
        receiver.wait_for_log("connected to NATS")
        with ExitStack() as stack:
            peers = list(peers_by_worker(receiver, stack).values()) if workers > 1 else []
            while len(peers) < 4:
                peers.append(stack.enter_context(associated(receiver)))
            for turn in range(10):
                for index, peer in enumerate(peers):
                    store(peer, work[4 * turn + index])
            for peer in peers:
                peer.release()
        payloads, messages = messages_of(
            receiver, progress, queue, lonk.subject("RAWPEER", work[0].series, root)
        )
    # To the byte what one process sends.
    assert payloads == [*map(lonk.count, range(1, 41)), lonk.count(40), DONE]
    (message,) = messages
    assert message == {
        "PatientID": "P1",
        "PatientName": "Doe^Jane",
        "PatientBirthDate": "19800102",
        "PatientAge": 16071,
        "PatientSex": "F",
        "StudyDate": "2024-01-31",
        "AccessionNumber": "ACC1",
        "Modality": "CT",
        "ProtocolName": "Routine",
        "StudyInstanceUID": f"{work[0].series}.0",
        "StudyDescription": "Chest",
        "SeriesInstanceUID": work[0].series,
        "SeriesDescription": "Lung",
        "pacs_name": "RAWPEER",
        "path": receiver.path_of(work[0].sop_instance).parent.relative_to(tmp_path).as_posix(),
        "ndicom": 40,
    }
    assert len(receiver.files()) == 40
    ends = receiver.log("association released")
    assert [end["stored"] for end in ends] == [10] * 4
    assert len({end.get("worker") for end in ends}) == workers
    (complete,) = receiver.log("series complete")
    assert complete["associations"] == 4


def test_ends_in_different_workers_at_no_settle_time_are_one_registration(two: Receiver) -> None:
    """One worker's report of an end may overtake another's report of an instance."""
    for _ in range(10):
        first, second = series_of(2)
        with ExitStack() as stack:
            one, other = peers_by_worker(two, stack).values()
            store(one, first)
            store(other, second)
            one.release()
            other.release()
        assert two.wait_for_registration(first.series)["ndicom"] == 2
        # A second registration would be logged before the next turn's connections.
        complete = [each["SeriesInstanceUID"] for each in two.log("series complete")]
        assert complete.count(first.series) <= 1


def test_the_first_instance_decides_the_folder_in_every_worker(two: Receiver) -> None:
    instances = series_of(20)
    for number, instance in enumerate(instances):
        instance.values["PatientName"] = f"Name^{number % 2}"
    with ExitStack() as stack:
        peers = list(peers_by_worker(two, stack).values())

        def send(index: int) -> None:
            for instance in instances[index::2]:
                store(peers[index], instance)

        threads = [threading.Thread(target=send, args=[index]) for index in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for peer in peers:
            peer.release()
    registration = two.wait_for_registration(instances[0].series)
    (folder,) = {path.parent for path in files_of(two, instances)}
    assert registration["ndicom"] == len(list(folder.iterdir())) == 20
    assert registration["series"]["path"] == folder.relative_to(two.root).as_posix()
    (warning,) = (
        record
        for record in two.log(
            "instances with another patient or study than their series; stored in its folder"
        )
        if record["SeriesInstanceUID"] == instances[0].series
    )
    assert warning["instances"] == 10
    assert warning["worker"] in (1, 2)


def test_a_series_that_is_registered_no_longer_decides_the_folder(two: Receiver) -> None:
    series = Instance().series
    folders: set[Path] = set()

    def another() -> bool:
        """Store after the registration, of which the worker hears a moment later."""
        instance = Instance(series=series, PatientName=f"Name^{len(folders)}")
        with associated(two) as peer:
            store(peer, instance)
            peer.release()
        folder = two.path_of(instance.sop_instance).parent
        wait_until(lambda: registered_path(two, series) == folder, "its registration")
        folders.add(folder)
        return len(folders) == 3

    wait_until(another, "three folders")


def registered_path(receiver: Receiver, series: str) -> Path:
    path: str = receiver.wait_for_registration(series)["series"]["path"]
    return receiver.root / path


def test_instance_with_another_number_by_another_worker_is_one_file(two: Receiver) -> None:
    first, other = series_of(2)
    again = Instance(series=first.series, sop_instance=first.sop_instance, number=7)
    with ExitStack() as stack:
        peers = list(peers_by_worker(two, stack).values())
        store(peers[1], other)
        store(peers[0], first)
        # A clock tick of the file system lies between them, as it does between real ones.
        wait_until(lambda: time.time_ns() > ctime_ns(two, first) + 20_000_000, "a tick")
        store(peers[1], again)
        for peer in peers:
            peer.release()
    assert two.wait_for_registration(first.series)["ndicom"] == 2
    path = two.path_of(first.sop_instance)
    assert path.name.startswith("0007-")
    assert stored_data_set(path) == again.encode(EXPLICIT)
    assert len(list(path.parent.iterdir())) == 2


def ctime_ns(receiver: Receiver, instance: Instance) -> int:
    return receiver.path_of(instance.sop_instance).stat().st_ctime_ns


def test_all_workers_together_keep_to_the_limit_of_associations(tmp_path: Path) -> None:
    with (
        Receiver(tmp_path, OXIDICOM_WORKERS="3", OXIDICOM_LISTENER_THREADS="4") as receiver,
        ExitStack() as stack,
    ):
        peers = [stack.enter_context(associated(receiver)) for _ in range(4)]
        for _ in range(4):
            with RawPeer(receiver.port) as peer, pytest.raises(AssertionError):
                peer.associate()
        receiver.wait_for_log("no association", count=4)
        # A place that becomes free is free in every worker, even if a process has died.
        peers[0].release()
        with associated(receiver) as peer:
            peer.release()
        victim = receiver.worker_of(peers[1].socket.getsockname()[1])
        victim.kill()
        receiver.wait_for_log("worker replaced")
        with associated(receiver) as peer:
            peer.release()


# ---- a worker that dies --------------------------------------------------------------------------


class Sender(threading.Thread):
    """Sends one series, with retries until every instance is acknowledged."""

    def __init__(self, receiver: Receiver, count: int) -> None:
        super().__init__()
        self.instances = series_of(count, pixels=20_000)
        self.attempts = 0
        self.sending = threading.Event()
        self._receiver = receiver

    def run(self) -> None:
        left = list(self.instances)
        while left:
            self.attempts += 1
            with suppress(EOFError, OSError), associated(self._receiver) as peer:
                while left:
                    store(peer, left[0])
                    left.pop(0)
                    if len(left) < len(self.instances) - 5:
                        self.sending.set()
                peer.release()


def test_a_killed_worker_is_replaced_and_no_instance_is_lost(tmp_path: Path) -> None:
    with (
        Receiver(tmp_path, OXIDICOM_WORKERS="2", OXIDICOM_INCOMPLETE_SETTLE="3s") as receiver,
        ExitStack() as stack,
    ):
        peers = peers_by_worker(receiver, stack)
        (victim, doomed), (other, spared) = peers.items()
        lone, shared, untouched = series_of(3), series_of(6), series_of(2)
        store(doomed, lone[0])
        store(doomed, shared[0])
        store(spared, shared[1])
        store(spared, untouched[0])
        senders = [Sender(receiver, 100) for _ in range(4)]
        for sender in senders:
            sender.start()
        for sender in senders:
            assert sender.sending.wait(20)
        psutil.Process(victim).kill()
        died = receiver.wait_for_log("worker died")
        assert died["level"] == "ERROR"
        assert died["pid"] == victim
        assert died["end"] == "SIGKILL"
        replaced = receiver.wait_for_log("worker replaced")
        assert replaced["worker"] == died["worker"]
        assert {worker.pid for worker in receiver.workers()} == {other, replaced["pid"]}
        # A retry in time adds to the same series; peers of the other worker notice nothing.
        store(spared, untouched[1])
        with associated(receiver) as peer:
            for instance in (*lone, *shared[2:]):
                store(peer, instance)
            peer.release()
        spared.release()
        for sender in senders:
            sender.join(30)
            assert not sender.is_alive()
        assert any(sender.attempts > 1 for sender in senders)
        for instances in (lone, shared, untouched, *(each.instances for each in senders)):
            registration = receiver.wait_for_registration(instances[0].series)
            assert registration["ndicom"] == len(instances)
            for instance in instances:
                assert receiver.data_set_of(instance.sop_instance) == instance.encode(EXPLICIT)
        receiver.stop()
        complete = [line["SeriesInstanceUID"] for line in receiver.log("series complete")]
        assert len(complete) == len(set(complete)) == 7, "one registration each"
        assert receiver.leftovers() == []
        assert list((receiver.state / "journal").glob("*.json")) == []


@pytest.mark.parametrize("reported", [0, 4])
def test_a_series_of_a_killed_worker_is_registered_without_a_retry(
    mortal: Receiver, reported: int
) -> None:
    """Reports of the last 10 ms are lost with it; journal and folder have what they said."""
    instances = series_of(reported + 1)
    with associated(mortal) as peer:
        worker = mortal.worker_of(peer.socket.getsockname()[1])
        for instance in instances:
            store(peer, instance)
        worker.kill()
        mortal.wait_for_log("worker replaced")
        assert mortal.wait_for_registration(instances[0].series)["ndicom"] == reported + 1
    mortal.stop()
    (died,) = mortal.log("worker died")
    assert died["series"] == 1
    assert list((mortal.state / "journal").glob("*.json")) == []


def test_the_folder_stays_when_the_worker_that_claimed_it_dies(mortal: Receiver) -> None:
    first, second = series_of(2)
    second.values["PatientName"] = "Other^Name"
    with associated(mortal) as peer:
        store(peer, first)
        mortal.worker_of(peer.socket.getsockname()[1]).kill()
    with associated(mortal) as peer:
        store(peer, second)
        peer.release()
    assert mortal.wait_for_registration(first.series)["ndicom"] == 2
    assert len({path.parent for path in mortal.files()}) == 1


def test_the_folder_stays_when_all_processes_are_killed(mortal: Receiver) -> None:
    first, second = series_of(2)
    second.values["PatientName"] = "Other^Name"
    with associated(mortal) as peer:
        store(peer, first)
        mortal.kill()
    mortal.start()
    with associated(mortal) as peer:
        store(peer, second)
        peer.release()
    assert mortal.wait_for_registration(first.series)["ndicom"] == 2
    assert len({path.parent for path in mortal.files()}) == 1


# ---- the end of the control process -------------------------------------------------------------


def wait_for_end(processes: list[psutil.Process]) -> None:
    """Zombies count as ended: the parent that would reap them may be dead."""

    def ended() -> bool:
        return not any(
            each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in processes
        )

    wait_until(ended, f"the end of {processes}", 5)


def test_workers_end_when_the_control_process_is_killed(mortal: Receiver) -> None:
    (instance,) = series_of(1)
    with associated(mortal) as peer:
        store(peer, instance)
        workers = mortal.workers()
        assert len(workers) == 2
        mortal.signal(signal.SIGKILL)
        wait_for_end(workers)
        with pytest.raises((EOFError, OSError)):
            peer.echo()
    mortal.wait()
    mortal.start()
    assert mortal.wait_for_registration(instance.series)["ndicom"] == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_all_workers_drain(mortal: Receiver, number: signal.Signals) -> None:
    first, second, third = series_of(3)
    with ExitStack() as stack:
        one, other = peers_by_worker(mortal, stack).values()
        store(one, first)
        # As a terminal's Ctrl-C does: to all of them.
        for process in reversed(mortal.processes()):
            process.send_signal(number)
        mortal.wait_for_log("shutting down")
        store(one, second)
        store(other, third)
        one.release()
        other.release()
        assert mortal.wait() == 0
    (registration,) = mortal.outbox()
    assert registration["ndicom"] == 3
    assert not mortal.log("worker died")
    assert list((mortal.state / "journal").glob("*.json")) == []


def test_a_second_signal_ends_all_processes_at_once(mortal: Receiver) -> None:
    with ExitStack() as stack:
        peers_by_worker(mortal, stack)
        workers = mortal.workers()
        mortal.signal()
        mortal.wait_for_log("shutting down")
        began = time.monotonic()
        mortal.signal()
        assert mortal.wait() == 128 + signal.SIGTERM
        wait_for_end(workers)
        assert time.monotonic() - began < BUSY_MACHINE_S


def test_workers_ignore_signals_of_their_own(two: Receiver) -> None:
    (instance,) = series_of(1)
    with associated(two) as peer:
        for worker in two.workers():
            worker.send_signal(signal.SIGTERM)
            worker.send_signal(signal.SIGINT)
        store(peer, instance)
        peer.release()
    assert two.wait_for_registration(instance.series)["ndicom"] == 1


def test_workers_store_while_the_control_process_is_stopped(two: Receiver) -> None:
    known, other = series_of(2)
    unknown = series_of(1)[0]
    with associated(two) as peer:
        store(peer, known)
        two.signal(signal.SIGSTOP)
        try:
            store(peer, other)
            began = time.monotonic()
            store(peer, unknown)
            assert 0.9 < time.monotonic() - began < 1 + BUSY_MACHINE_S, "the claim times out"
        finally:
            two.signal(signal.SIGCONT)
        peer.release()
    assert two.wait_for_registration(known.series)["ndicom"] == 2
    assert two.wait_for_registration(unknown.series)["ndicom"] == 1


def test_a_port_that_is_taken_ends_the_start(two: Receiver) -> None:
    other = Receiver(two.root, OXIDICOM_WORKERS="2", OXIDICOM_LISTENER_PORT=str(two.port))
    with pytest.raises(AssertionError, match="cannot listen on"):
        other.start()
    assert other.wait() == 1


@pytest.mark.parametrize("workers", ["1", "2"])
def test_storage_that_workers_cannot_use_is_reported_once(tmp_path: Path, workers: str) -> None:
    (tmp_path / ".oxidicom").mkdir()
    (tmp_path / ".oxidicom/tmp").touch()
    receiver = Receiver(tmp_path, OXIDICOM_WORKERS=workers)
    with pytest.raises(AssertionError, match="cannot use the storage"):
        receiver.start()
    assert receiver.wait() == 1
    assert sum("cannot use the storage" in line for line in receiver.lines) == 1


def test_a_worker_that_cannot_start_is_started_again(mortal: Receiver) -> None:
    (instance,) = series_of(1)
    temporary, moved = mortal.state / "tmp", mortal.state / "moved"
    temporary.rename(moved)
    temporary.touch()
    mortal.workers()[0].kill()
    assert "cannot use the storage" in mortal.wait_for_log("worker cannot start")["fault"]
    with associated(mortal) as peer:
        peer.release()  # by the other worker
    temporary.unlink()
    moved.rename(temporary)
    mortal.wait_for_log("worker replaced")
    with associated(mortal) as peer:
        store(peer, instance)
        peer.release()
    assert mortal.wait_for_registration(instance.series)["ndicom"] == 1
