"""Senders that behave as a PACS: what was not acknowledged is sent again, whatever happens."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from tests.support.data import PIXEL_DATA, Instance, element_header
from tests.support.raw_peer import EXPLICIT, RawPeer, abort
from tests.support.receiver import Receiver, stored_data_set

SIZES = (0, 400, 9_000, 40_000, 130_000, 700_000)
"""Bytes of pixels: within one receive buffer, about one buffer, and many."""

SMALL = SIZES[:4]

STUCK = 120.0
"""Seconds after which a sender that is to finish has failed."""


class Parcel(NamedTuple):
    """One instance as it is sent."""

    sop_instance: str
    data_set: bytes


def random_parcel(rng: random.Random, series: str, number: int, size: int) -> Parcel:
    """Make an instance whose pixels are like no other's, so that a block of another instance is
    noticed.

    Each series has a patient of its own: the reference's folder distinguishes series of one study
    by 28 bits of a hash, of which a long trial has equal ones.
    """
    patient = series.rpartition(".")[2]
    instance = Instance(series=series, number=number, pixels=0, PatientID=patient)
    head = instance.encode(EXPLICIT)[: -len(element_header(PIXEL_DATA, "OW", 0))]
    data_set = head + element_header(PIXEL_DATA, "OW", size) + rng.randbytes(size)
    return Parcel(instance.sop_instance, data_set)


def digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


class Ledger:
    """Everything that all senders sent, and what was acknowledged."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.sent: dict[str, bytes] = {}
        """Digests by SOP Instance UID."""
        self.series: dict[str, list[str]] = {}
        """SOP Instance UIDs by series."""
        self.acknowledged: set[str] = set()
        self.interrupted = 0
        """Number of associations that broke."""
        self.refused = 0

    def add(self, series: str, parcels: Iterable[Parcel]) -> None:
        with self._lock:
            for parcel in parcels:
                self.sent[parcel.sop_instance] = digest(parcel.data_set)
                self.series.setdefault(series, []).append(parcel.sop_instance)

    def acknowledge(self, parcel: Parcel) -> None:
        with self._lock:
            self.acknowledged.add(parcel.sop_instance)

    def note(self, *, interrupted: int = 0, refused: int = 0) -> None:
        with self._lock:
            self.interrupted += interrupted
            self.refused += refused

    def absorb(self, other: Ledger) -> None:
        self.sent |= other.sent
        self.series |= other.series
        self.acknowledged |= other.acknowledged
        self.note(interrupted=other.interrupted, refused=other.refused)

    def check_files(self, receiver: Receiver, known: set[Path] | None = None) -> int:
        """Check that nothing acknowledged is missing, and that nothing stored is half or differs
        from what was sent.

        Files in `known` were checked before; it is added to. Returns the number of files.
        """
        known = set() if known is None else known
        files = receiver.files()
        missing = self.acknowledged - {instance_of(path) for path in files}
        assert not missing, f"{len(missing)} acknowledged and not there"
        for path in files:
            if path not in known:
                assert digest(stored_data_set(path)) == self.sent[instance_of(path)], path.name
                known.add(path)
        return len(files)


def instance_of(path: Path) -> str:
    assert path.suffix == ".dcm", path
    return path.name.partition("-")[2].removesuffix(".dcm")


class Sender(threading.Thread):
    """A thread that sends series after series: `count` of them, or until `Senders.finish`."""

    def __init__(self, senders: Senders, rng: random.Random, count: int | None) -> None:
        super().__init__(daemon=True)
        self.failure: BaseException | None = None
        self._senders = senders
        self._rng = rng
        self._left = count

    def run(self) -> None:
        try:
            while not self._senders.finishing.is_set() and self._left != 0:
                self._send_series()
                if self._left is not None:
                    self._left -= 1
        except BaseException as failure:
            self.failure = failure

    def _send_series(self) -> None:
        senders, rng = self._senders, self._rng
        series = Instance().series
        parcels = [
            random_parcel(rng, series, number, rng.choice(senders.sizes))
            for number in range(1, rng.randint(1, senders.longest) + 1)
        ]
        senders.ledger.add(series, parcels)
        left = parcels[::-1]
        while left:
            senders.up.wait(STUCK)
            try:
                with RawPeer(senders.receiver.port) as peer:
                    peer.associate()
                    self._send_some(peer, left)
            except (EOFError, OSError):
                senders.ledger.note(interrupted=1)

    def _send_some(self, peer: RawPeer, left: list[Parcel]) -> None:
        """Send as many as one association carries; what was acknowledged is removed from `left`."""
        for _ in range(self._rng.randint(1, len(left)) if self._senders.split else len(left)):
            parcel = left[-1]
            if peer.store(parcel.sop_instance, parcel.data_set).status == 0:
                self._senders.ledger.acknowledge(parcel)
                left.pop()
            else:
                self._senders.ledger.note(refused=1)
        if self._senders.split and self._rng.random() < 0.2:
            peer.send(abort())
        else:
            peer.release()


class Senders:
    """Several senders. `up` is cleared while the receiver is down, so that none tries to connect.

    `split`: a series may be sent over several associations, some of them aborted at their end.
    """

    def __init__(
        self,
        receiver: Receiver,
        rng: random.Random,
        *,
        number: int = 4,
        each: int | None = None,
        longest: int = 20,
        sizes: Iterable[int] = SIZES,
        split: bool = False,
    ) -> None:
        self.receiver = receiver
        self.ledger = Ledger()
        self.longest = longest
        self.sizes = tuple(sizes)
        self.split = split
        self.finishing = threading.Event()
        self.up = threading.Event()
        self.up.set()
        self._threads = [
            Sender(self, random.Random(rng.getrandbits(64)), each) for _ in range(number)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def finish(self) -> Ledger:
        """Return the ledger once each sender has sent all of its last series."""
        self.finishing.set()
        return self.join()

    def join(self) -> Ledger:
        """Return the ledger once each sender has sent as many series as it was given."""
        for thread in self._threads:
            thread.join(STUCK)
            if thread.failure is not None:
                raise thread.failure
            assert not thread.is_alive(), "a sender is stuck"
        assert self.ledger.acknowledged == set(self.ledger.sent)
        return self.ledger
