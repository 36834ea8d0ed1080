"""Storage that fails while the receiver starts (promise 4; decision 35).

What an earlier one left there is a series in the outbox, two that were open, and half an instance.
Either it starts in spite of the trouble, or it says why not; no series is lost either way.
"""

from __future__ import annotations

import errno
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.adversity.conftest import Figures
from tests.support.data import Instance
from tests.support.raw_peer import EXPLICIT, RawPeer, c_store_rq, p_data, pdv
from tests.support.receiver import Receiver, wait_until
from tests.support.storage_faults import ALWAYS, StorageFaults, storage_faults

ERRORS = (errno.EIO, errno.EACCES, errno.ENOSPC, errno.EMFILE, errno.EROFS)


def leave_something(receiver: Receiver) -> dict[str, int]:
    """The numbers of instances that are to be registered, by series."""
    registered = Instance()
    with receiver, RawPeer(receiver.port) as peer:
        peer.associate()
        assert peer.store(registered.sop_instance, registered.encode(EXPLICIT)).status == 0
        peer.release()
        receiver.wait_for_outbox(1)
    counts = {registered.series: 1}
    receiver.start()
    with RawPeer(receiver.port) as peer:
        peer.associate()
        for number in (1, 2):
            series = Instance().series
            for one in range(1, number + 1):
                instance = Instance(series=series, number=one)
                assert peer.store(instance.sop_instance, instance.encode(EXPLICIT)).status == 0
            counts[series] = number
        half = Instance(pixels=500_000)
        command = c_store_rq(half.sop_class, half.sop_instance)
        peer.send(p_data(pdv(1, command, command=True, last=True)))
        peer.send(p_data(pdv(1, half.encode(EXPLICIT)[:400_000], command=False, last=False)))
        wait_until(lambda: len(receiver.leftovers()) == 1, "half an instance")
        receiver.kill()
    return counts


class Trial:
    """The same state for every start."""

    def __init__(self, receiver: Receiver, faults: StorageFaults) -> None:
        self._receiver = receiver
        self._faults = faults
        self._counts = leave_something(receiver)
        self._kept = receiver.root.with_name("kept")
        shutil.copytree(receiver.root, self._kept)
        self.started = self.refused = 0

    def starts(self, error: int, first: int, times: int) -> bool:
        """False: it makes no such call."""
        receiver, faults = self._receiver, self._faults
        shutil.rmtree(receiver.root)
        shutil.copytree(self._kept, receiver.root)
        faults.begin(error, first=first, times=times)
        receiver.launch()
        wait_until(lambda: self.has_said(), "it to listen or to end", 30)
        listens = bool(receiver.log("listening"))
        faults.end()
        if listens:
            self.started += 1
            assert self.tells_no_bug(), self.case()
        else:
            self.refused += 1
            assert receiver.wait() == 1, "the operator's fault, not a crash of ours"
            assert self.tells_why(), self.case()
            receiver.start()
        wait_until(self.is_registered, f"every series after {faults.hit}", 20)
        receiver.kill()
        if receiver.leftovers():
            # Removing it had failed.
            receiver.start()
            wait_until(lambda: not receiver.leftovers(), f"it swept after {faults.hit}")
            receiver.kill()
        return faults.hits > 0

    def has_said(self) -> bool:
        return bool(self._receiver.log("listening")) or self._receiver.process.poll() is not None

    def is_registered(self) -> bool:
        counts = {
            entry["series"]["series_instance_uid"]: entry["ndicom"]
            for entry in self._receiver.outbox()
        }
        return counts == self._counts and not any((self._receiver.state / "journal").iterdir())

    def tells_no_bug(self) -> bool:
        """No traceback, and no record but of trouble that passes."""
        records = self._receiver.log()
        return len(records) == len(self._receiver.lines) and all(
            "retrying" in record["message"] for record in records if record["level"] == "ERROR"
        )

    def case(self) -> str:
        return f"after {self._faults.hit}:\n" + "\n".join(self._receiver.lines)

    def tells_why(self) -> bool:
        """The operator, and in one record: no traceback."""
        records = self._receiver.log()
        told = [record["fault"] for record in records if record["message"] == "cannot start"]
        return len(records) == len(self._receiver.lines) and (
            [fault.partition(": ")[0] for fault in told] == ["cannot use the storage"]
        )


@pytest.fixture
def trial(tmp_path: Path) -> Iterator[Trial]:
    root = tmp_path / "files"
    root.mkdir()
    with storage_faults(tmp_path, root) as faults:
        # Otherwise Python would look for modules in the current folder, the files root.
        faults.environment["PYTHONSAFEPATH"] = "1"
        receiver = Receiver(root, OXIDICOM_INCOMPLETE_SETTLE="0s", **faults.environment)
        yield Trial(receiver, faults)
        receiver.kill()


@pytest.mark.parametrize("times", [1, ALWAYS], ids=["once", "always"])
def test_every_call_of_a_start_fails(
    trial: Trial, times: int, long: bool, figures: Figures
) -> None:
    for first in itertools.count(1, 1 if long else 17):
        if not trial.starts(ERRORS[first % len(ERRORS)], first, times):
            break
    figures(f"{trial.started} starts in spite of it, {trial.refused} that were refused")
    assert first > 20
