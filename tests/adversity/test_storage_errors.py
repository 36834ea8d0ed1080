"""Every storage call of an instance fails in turn, once and always.

Decisions 20 and 21; promises 1, 3 and 6.

One association meets all failures: each instance is refused with the status of its errno, and is
stored when it is sent again. With --long every errno is tried at every call.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.support.data import Instance
from tests.support.raw_peer import EXPLICIT, RawPeer
from tests.support.receiver import Receiver, stored_data_set, wait_until
from tests.support.storage_faults import ALWAYS, StorageFaults, storage_faults
from tests.support.storing import OUT_OF_RESOURCES, PROCESSING_FAILURE, assert_refused, store

STATUS: Final = {
    errno.EIO: PROCESSING_FAILURE,
    errno.ENOSPC: OUT_OF_RESOURCES,
    errno.EDQUOT: OUT_OF_RESOURCES,
    errno.EMFILE: OUT_OF_RESOURCES,
    errno.ENFILE: OUT_OF_RESOURCES,
    errno.ENAMETOOLONG: PROCESSING_FAILURE,
    errno.EACCES: PROCESSING_FAILURE,
    errno.EROFS: PROCESSING_FAILURE,
    errno.EINTR: PROCESSING_FAILURE,
}
"""The status of each errno (decision 21)."""

SMALL, LARGE = 512, 900_000


def errors_at(call: int, long: bool) -> Iterator[tuple[int, int]]:
    """Yield errnos, and how often each occurs. Python repeats calls that EINTR interrupts, so that
    one never occurs always."""
    every = [error for error in STATUS if error != errno.EINTR]
    if long:
        yield from ((error, times) for error in every for times in (1, ALWAYS))
        yield errno.EINTR, 1
        return
    yield every[call % len(every)], 1
    yield (errno.EIO, errno.ENOSPC)[call % 2], ALWAYS
    if call % 3 == 0:
        yield errno.EINTR, 1


@dataclass(frozen=True)
class StoringMode:
    """The settings by which a receiver stores."""

    mode: str
    fsync: bool
    workers: int = 1

    def __str__(self) -> str:
        return f"{self.mode}{'-fsync' * self.fsync}{'-2workers' * (self.workers > 1)}"


MODES: Final = (
    *(StoringMode(mode, fsync) for mode in ("inline", "threads") for fsync in (False, True)),
    *(StoringMode(mode, fsync=mode == "threads", workers=2) for mode in ("inline", "threads")),
)


class Trial:
    """A receiver, one association with it, and the instances that must be on disk."""

    def __init__(
        self, mode: StoringMode, receiver: Receiver, faults: StorageFaults, peer: RawPeer
    ) -> None:
        self.mode = mode
        self.receiver = receiver
        self.faults = faults
        self.peer = peer
        self.patients = itertools.count()
        self.faulty = 0
        """Number of instances whose storage calls failed."""
        self.stored: dict[str, list[Instance]] = {}
        self.pids = [process.pid for process in receiver.processes()]
        self.store(self.new_series(SMALL))
        self.store(self.new_series(LARGE))
        self.handles = self.open_handles()

    def open_handles(self) -> int:
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in self.pids)

    def new_series(self, pixels: int) -> Instance:
        """Return an instance of a new patient: none of the folders of its path exists yet."""
        return Instance(pixels=pixels, PatientID=f"T{next(self.patients)}")

    def another(self, instance: Instance) -> Instance:
        return Instance(
            series=instance.series,
            number=2,
            pixels=instance.pixels,
            PatientID=instance.values["PatientID"],
        )

    def store(self, instance: Instance) -> None:
        """Send an instance, which must be stored."""
        assert store(self.peer, instance).status == 0
        self.note(instance)

    def note(self, instance: Instance) -> None:
        self.stored.setdefault(instance.series, []).append(instance)
        self.check_files(instance)

    def files(self, instance: Instance) -> list[Path]:
        """Return all files of a patient below the folder that CUBE reads."""
        aet = self.receiver.root / "SERVICES/PACS/RAWPEER"
        patient = aet / f"{instance.values['PatientID']!s}-Doe_Jane-19800102"
        return sorted(path for path in patient.rglob("*") if path.is_file())

    def check_files(self, instance: Instance, refused: Instance | None = None) -> None:
        """Check that all acknowledged instances are stored completely, and no others."""
        stored = [*self.stored.get(instance.series, []), *filter(None, [refused])]
        found = {stored_data_set(path) for path in self.files(instance)}
        assert len(self.files(instance)) == len(stored)
        assert found == {each.encode(EXPLICIT) for each in stored}

    def fails(self, instance: Instance, error: int, first: int, times: int) -> bool:
        """Send an instance while storage fails, and again; return whether a call failed."""
        self.faults.begin(error, first=first, times=times)
        response = store(self.peer, instance)
        self.faults.end()
        if not self.faults.hits:
            assert response.status == 0
            self.note(instance)
            return False
        if response.status == 0:
            call, path = self.faults.hit
            assert self.may_pass(call, path, times) or error == errno.EINTR, (call, path, error)
            self.note(instance)
        else:
            assert_refused(response, STATUS[error])
            self.check_files(instance, instance if self.may_stay(instance) else None)
            self.store(instance)
        self.faulty += 1
        case = f"after {errno.errorcode[error]}, {self.faults.hits} times from {self.faults.hit} on"
        temporary = self.receiver.state / "tmp"
        wait_until(lambda: not os.listdir(temporary), f"no temporary files {case}")
        wait_until(lambda: self.open_handles() == self.handles, f"no further handles {case}")
        return True

    def may_pass(self, call: str, path: str, times: int) -> bool:
        """Return whether a call may fail unnoticed: closing a folder, or a call of the fast path
        that the general path repeats."""
        folder = not path.endswith((".part", ".tmp"))
        return (folder and call == "close") or (times == 1 and call in ("open", "rename"))

    def may_stay(self, refused: Instance) -> bool:
        """Return whether the file of a refused instance may remain, complete.

        A placed file whose folder cannot be synced is removed. It remains if that fails too, and
        with several workers, because it may have replaced the file of another one.
        """
        if not self.mode.fsync or (self.mode.workers == 1 and self.faults.hits == 1):
            return False
        end = f"-{refused.sop_instance}.dcm"
        return any(path.name.endswith(end) for path in self.files(refused))

    def finish(self) -> None:
        """Check that every series is registered with its true count and nothing else is left."""
        print(f"{self.faulty} instances while storage failed")
        self.peer.echo()
        self.peer.release()
        entries = self.receiver.wait_for_outbox(len(self.stored), timeout=30)
        assert {entry["series"]["series_instance_uid"]: entry["ndicom"] for entry in entries} == {
            series: len(instances) for series, instances in self.stored.items()
        }
        journal = self.receiver.state / "journal"
        wait_until(lambda: not os.listdir(journal), "an empty journal")
        wait_until(lambda: not self.receiver.leftovers(), "nothing left behind")
        assert [
            record for record in self.receiver.log() if "bug" in record.get("message", "")
        ] == []


@pytest.fixture(params=MODES, ids=str)
def trial(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Trial]:
    mode: StoringMode = request.param
    root = tmp_path / "files"
    root.mkdir()
    with (
        storage_faults(tmp_path, root) as faults,
        Receiver(
            root,
            OXIDICOM_WRITE_MODE=mode.mode,
            OXIDICOM_FSYNC=str(mode.fsync),
            OXIDICOM_WORKERS=str(mode.workers),
            **faults.environment,
        ) as receiver,
        RawPeer(receiver.port) as peer,
    ):
        peer.associate()
        yield Trial(mode, receiver, faults, peer)


@pytest.mark.parametrize("pixels", [SMALL, LARGE], ids=["small", "large"])
def test_failures_of_the_first_instance_of_a_series(trial: Trial, pixels: int, long: bool) -> None:
    for first in itertools.count(1):
        cases = errors_at(first, long)
        if not all(trial.fails(trial.new_series(pixels), e, first, n) for e, n in cases):
            break
    assert first > 20, "folders, journal, file"
    trial.finish()


@pytest.mark.parametrize("pixels", [SMALL, LARGE], ids=["small", "large"])
def test_failures_of_an_instance_of_a_known_series(trial: Trial, pixels: int, long: bool) -> None:
    for first in itertools.count(1):
        for error, times in errors_at(first, long):
            before = trial.new_series(pixels)
            trial.store(before)
            failed = trial.fails(trial.another(before), error, first, times)
        if not failed:
            break
    assert first > 5, "open, write, close, open, rename, close"
    trial.finish()


def test_short_writes_are_continued(trial: Trial) -> None:
    for pixels, max_bytes in itertools.product((SMALL, LARGE), (1, 700, 5000)):
        if pixels // max_bytes > 10_000:
            continue
        for times in (1, ALWAYS):
            one = trial.new_series(pixels)
            for instance in (one, trial.another(one)):
                trial.faults.begin(call="write", max_bytes=max_bytes, times=times)
                trial.store(instance)
                trial.faults.end()
                assert trial.faults.hits >= 1
    trial.finish()


@pytest.mark.parametrize(
    "trial",
    [MODES[0], *(pytest.param(mode, marks=pytest.mark.long) for mode in (MODES[1], MODES[-1]))],
    ids=str,
    indirect=True,
)
def test_failures_of_a_registration(trial: Trial, long: bool) -> None:
    """A call of the control plane that fails is repeated until it succeeds."""
    trial.peer.release()
    for first in itertools.count(1):
        hits = completes(trial, first, times=1)
        if first % 3 == 0 or long:
            hits += completes(trial, first, ALWAYS)
        if not hits:
            break
    assert first > 5
    with RawPeer(trial.receiver.port) as trial.peer:
        trial.peer.associate()
        trial.finish()


def completes(trial: Trial, first: int, times: int) -> int:
    """Send a series of one instance, and let storage fail from the end of its association on."""
    with RawPeer(trial.receiver.port) as trial.peer:
        trial.peer.associate()
        instance = trial.new_series(SMALL)
        trial.store(instance)
        error = (errno.EIO, errno.ENOSPC)[first % 2]
        trial.faults.begin(error, first=first, times=times)
        trial.peer.release()
    outbox, journal = trial.receiver.state / "outbox", trial.receiver.state / "journal"

    def done() -> bool:
        return len(list(outbox.glob("*.json"))) == len(trial.stored) and not os.listdir(journal)

    wait_until(lambda: done() or trial.faults.hits > 1, "the series done, or a retry")
    trial.faults.end()
    wait_until(done, "the registration in the outbox, the journal empty")
    return trial.faults.hits
