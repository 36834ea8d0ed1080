"""Several workers agree on the folder of a series (decision 26)."""

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
    """Replaces the series tracker: knows which series are open."""

    def __init__(self) -> None:
        self.open: dict[SeriesKey, SeriesInfo] = {}

    def series_of(self, key: SeriesKey) -> SeriesInfo | None:
        return self.open.get(key)


@pytest.fixture
def tracker() -> Tracker:
    return Tracker()


@pytest.fixture
def claims(tracker: Tracker) -> FolderClaims:
    return FolderClaims(tracker.series_of)


def test_the_first_claim_decides_the_folder_for_all_workers(claims: FolderClaims) -> None:
    assert claims.claim("A", ONE) is ONE
    assert claims.claim("B", TWO) is ONE
    assert claims.claim("C", THREE) is ONE
    other = series("P2", "9.9")
    assert claims.claim("B", other) is other


def test_a_folder_stays_decided_while_any_worker_has_a_claim(claims: FolderClaims) -> None:
    claims.claim("A", ONE)
    claims.claim("B", TWO)
    claims.release("A", KEY)
    assert claims.claim("C", THREE) is ONE
    claims.release("B", KEY)
    claims.release("C", KEY)
    assert len(claims) == 0
    assert claims.claim("A", THREE) is THREE


def test_a_worker_that_claims_again_is_bound_by_other_workers_only(claims: FolderClaims) -> None:
    """It claims again when all of its instances have failed, or its series is registered."""
    claims.claim("A", ONE)
    assert claims.claim("A", TWO) is TWO
    assert claims.claim("B", THREE) is TWO
    assert claims.claim("A", ONE) is TWO


def test_a_release_that_comes_after_the_next_claim_ends_the_earlier_one(
    claims: FolderClaims,
) -> None:
    """Claims and releases use different sockets."""
    claims.claim("A", ONE)
    claims.claim("A", TWO)
    claims.release("A", KEY)
    assert claims.claim("B", THREE) is TWO
    claims.release("B", KEY)
    claims.release("A", KEY)
    assert len(claims) == 0


def test_an_open_series_continues_in_its_folder(claims: FolderClaims, tracker: Tracker) -> None:
    """It was recovered after a crash, or left by a worker that died."""
    tracker.open[KEY] = ONE
    assert claims.claim("A", TWO) is ONE
    tracker.open.clear()
    assert claims.claim("B", THREE) is ONE, "worker A stores into it by now"


def test_a_dead_worker_has_no_claims(claims: FolderClaims, tracker: Tracker) -> None:
    claims.claim("A", ONE)
    claims.claim("A", series("P1", "9.9"))
    claims.claim("B", TWO)
    claims.forget("A")
    assert claims.claim("C", THREE) is ONE, "instances of B are in that folder"
    claims.forget("B")
    claims.forget("C")
    claims.forget("C")
    assert len(claims) == 0


def test_a_release_without_a_claim_is_ignored(claims: FolderClaims) -> None:
    claims.release("A", KEY)
    claims.claim("A", ONE)
    claims.release("B", KEY)
    assert claims.claim("C", TWO) is ONE
    assert len(claims) == 1


# ---- over a socket -----------------------------------------------------------------------


class Bench:
    """A worker's client, and a server that answers `answers` claims on a thread."""

    def __init__(self, claims: FolderClaims) -> None:
        ours, theirs = socket_pair(socket.SOCK_SEQPACKET)
        self.released: list[SeriesKey] = []
        self.client = ClaimClient(theirs, self.released.append)
        self.server = ClaimServer(ours, "A", claims)
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
def bench(claims: FolderClaims) -> Iterator[Bench]:
    bench = Bench(claims)
    yield bench
    bench.close()


def test_a_claim_is_answered(bench: Bench, claims: FolderClaims) -> None:
    claims.claim("B", ONE)
    bench.answers(3)
    assert bench.client.claim(TWO) == ONE
    same = series("P1")
    assert bench.client.claim(same) is same, "the worker that decides keeps its own record"
    long = msgspec.structs.replace(series("P1", "9.9"), patient_name="ä" * 40_000)
    assert bench.client.claim(long) is long
    bench.client.release(KEY)
    assert bench.released == [KEY]


def test_a_worker_uses_its_own_folder_name_without_an_answer(
    bench: Bench,
    claims: FolderClaims,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(bench.client, "_timeout", 0.05)
    monkeypatch.setattr(module, "CLAIM_TIMEOUT_AFTER_FAILURE_S", 5.0)
    claims.claim("B", ONE)
    assert bench.client.claim(TWO) is TWO
    assert "using this worker's folder name" in caplog.text
    assert bench.client._timeout == module.CLAIM_TIMEOUT_AFTER_FAILURE_S
    # The late answer is not taken for that of the next claim.
    other = series("P9", "9.9")
    bench.answers(2)
    assert bench.client.claim(other) is other
    assert bench.client._timeout == module.CLAIM_TIMEOUT_S


def test_a_control_process_that_is_gone_is_not_waited_for(bench: Bench) -> None:
    bench.server.close()
    assert bench.client.claim(TWO) is TWO


def test_a_worker_that_is_gone_claims_nothing(bench: Bench) -> None:
    bench.ends[1].close()
    assert not bench.server.answer()
