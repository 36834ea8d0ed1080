"""Who names the folder of a series that several workers receive (decision 26)."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import msgspec
import pytest

from oxidicom.app import folder_claims as module
from oxidicom.app.folder_claims import ClaimClient, ClaimServer, FolderClaims
from oxidicom.app.worker_channel import socket_pair
from oxidicom.ports import SeriesInfo, SeriesKey


def series(patient: str, uid: str = "1.2.3") -> SeriesInfo:
    return SeriesInfo(
        calling_ae_title="AET",
        pacs_name="AET",
        path=f"SERVICES/PACS/AET/{patient}/study/series",
        patient_id=patient,
        study_date="2024-01-31",
        study_instance_uid="1.2",
        series_instance_uid=uid,
    )


ONE, TWO, THREE = (series(patient) for patient in ("P1", "P2", "P3"))
KEY = ONE.key


class Tracker:
    """Knows which series are open."""

    def __init__(self) -> None:
        self.open: dict[SeriesKey, SeriesInfo] = {}

    def series_of(self, key: SeriesKey) -> SeriesInfo | None:
        return self.open.get(key)


@pytest.fixture
def tracker() -> Tracker:
    return Tracker()


@pytest.fixture
def names(tracker: Tracker) -> FolderClaims:
    return FolderClaims(tracker.series_of)


def test_the_first_claim_names_the_folder_for_all(names: FolderClaims) -> None:
    assert names.claim("A", ONE) is ONE
    assert names.claim("B", TWO) is ONE
    assert names.claim("C", THREE) is ONE
    other = series("P2", "9.9")
    assert names.claim("B", other) is other


def test_it_holds_while_any_worker_holds_it(names: FolderClaims) -> None:
    names.claim("A", ONE)
    names.claim("B", TWO)
    names.release("A", KEY)
    assert names.claim("C", THREE) is ONE
    names.release("B", KEY)
    names.release("C", KEY)
    assert len(names) == 0
    assert names.claim("A", THREE) is THREE


def test_a_worker_that_asks_again_is_bound_by_others_only(names: FolderClaims) -> None:
    """All of its instances have failed, or its reception is over."""
    names.claim("A", ONE)
    assert names.claim("A", TWO) is TWO
    assert names.claim("B", THREE) is TWO
    assert names.claim("A", ONE) is TWO


def test_a_release_that_comes_after_the_next_claim_ends_the_earlier_one(
    names: FolderClaims,
) -> None:
    """ClaimClient and releases take different ways."""
    names.claim("A", ONE)
    names.claim("A", TWO)
    names.release("A", KEY)
    assert names.claim("B", THREE) is TWO
    names.release("B", KEY)
    names.release("A", KEY)
    assert len(names) == 0


def test_a_series_that_is_open_goes_on_where_it_lies(names: FolderClaims, tracker: Tracker) -> None:
    """Found after a crash, or left by a worker that died."""
    tracker.open[KEY] = ONE
    assert names.claim("A", TWO) is ONE
    tracker.open.clear()
    assert names.claim("B", THREE) is ONE, "the first one stores into it by now"


def test_a_dead_worker_holds_nothing(names: FolderClaims, tracker: Tracker) -> None:
    names.claim("A", ONE)
    names.claim("A", series("P1", "9.9"))
    names.claim("B", TWO)
    names.forget("A")
    assert names.claim("C", THREE) is ONE, "B's instances lie there"
    names.forget("B")
    names.forget("C")
    names.forget("C")
    assert len(names) == 0


def test_what_nobody_holds_can_be_released(names: FolderClaims) -> None:
    names.release("A", KEY)
    names.claim("A", ONE)
    names.release("B", KEY)
    assert names.claim("C", TWO) is ONE
    assert len(names) == 1


# ---- over a socket -----------------------------------------------------------------------


class Bench:
    """A worker's claims, and a notifier that answers them on a thread while it `answers`."""

    def __init__(self, names: FolderClaims) -> None:
        ours, theirs = socket_pair(socket.SOCK_SEQPACKET)
        self.released: list[SeriesKey] = []
        self.claims = ClaimClient(theirs, self.released.append)
        self.server = ClaimServer(ours, "A", names)
        self.ends = (ours, theirs)
        ours.settimeout(10)
        self._thread: threading.Thread | None = None

    def answers(self, count: int) -> None:
        def serve() -> None:
            for _ in range(count):
                assert self.server.answer()

        self._thread = threading.Thread(target=serve)
        self._thread.start()

    def close(self) -> None:
        if self._thread is not None:
            self._thread.join(10)
        for end in self.ends:
            with suppress(OSError):
                end.close()


@pytest.fixture
def bench(names: FolderClaims) -> Iterator[Bench]:
    bench = Bench(names)
    yield bench
    bench.close()


def test_a_claim_is_answered(bench: Bench, names: FolderClaims) -> None:
    names.claim("B", ONE)
    bench.answers(3)
    assert bench.claims.claim(TWO) == ONE
    same = series("P1")
    assert bench.claims.claim(same) is same, "who names it itself keeps its own record"
    long = msgspec.structs.replace(series("P1", "9.9"), patient_name="ä" * 40_000)
    assert bench.claims.claim(long) is long
    bench.claims.release(KEY)
    assert bench.released == [KEY]


def test_without_an_answer_it_goes_on_with_its_own_names(
    bench: Bench,
    names: FolderClaims,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(bench.claims, "_timeout", 0.05)
    monkeypatch.setattr(module, "CLAIM_TIMEOUT_AFTER_FAILURE_S", 5.0)
    names.claim("B", ONE)
    assert bench.claims.claim(TWO) is TWO
    assert "using this worker's folder name" in caplog.text
    assert bench.claims._timeout == module.CLAIM_TIMEOUT_AFTER_FAILURE_S
    # The late answer is not taken for the next one's.
    other = series("P9", "9.9")
    bench.answers(2)
    assert bench.claims.claim(other) is other
    assert bench.claims._timeout == module.CLAIM_TIMEOUT_S


def test_a_notifier_that_is_gone_is_not_waited_for(bench: Bench) -> None:
    bench.server.close()
    assert bench.claims.claim(TWO) is TWO


def test_a_worker_that_is_gone_claims_nothing(bench: Bench) -> None:
    bench.ends[1].close()
    assert not bench.server.answer()
