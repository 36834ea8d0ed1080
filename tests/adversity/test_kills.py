"""kill -9 at random moments, also at start-up (promises 1 to 4; decisions 20, 31, 32)."""

from __future__ import annotations

import random
import time
from pathlib import Path

import psutil
import pytest

from tests.adversity.conftest import Figures, Scale
from tests.support.ports import free_port
from tests.support.receiver import Receiver, wait_until
from tests.support.senders import Senders, instance_of

COMBINATIONS = [
    (1, "inline"),
    pytest.param(1, "threads", marks=pytest.mark.long),
    pytest.param(2, "inline", marks=pytest.mark.long),
    (2, "threads"),
]


def kill_at_a_random_moment(receiver: Receiver, senders: Senders, rng: random.Random) -> None:
    """Kill a receiver that is serving or starting."""
    time.sleep(rng.choice((0.05, 0.3, 0.8)) * rng.random())
    senders.up.clear()
    if rng.random() < 0.5:
        receiver.kill()
    else:  # only the control process; its workers end by themselves
        processes = receiver.processes()
        processes[0].kill()
        receiver.wait()
        _, alive = psutil.wait_procs(processes[1:], timeout=5)
        assert not alive


def start_with_kills(receiver: Receiver, senders: Senders, rng: random.Random) -> int:
    """Start a receiver that may be killed during recovery; return how often it was."""
    kills_at_start = 0
    while rng.random() < 0.2:
        receiver.launch()
        time.sleep(rng.random())
        receiver.kill()
        kills_at_start += 1
    receiver.start()
    senders.up.set()
    return kills_at_start


def journal_of(receiver: Receiver) -> list[Path]:
    return list((receiver.state / "journal").glob("*.json"))


@pytest.mark.parametrize(("workers", "write_mode"), COMBINATIONS)
def test_killed_at_random_moments(
    tmp_path: Path,
    rng: random.Random,
    scale: Scale,
    figures: Figures,
    workers: int,
    write_mode: str,
) -> None:
    kills, number = 0, scale(4, 50)
    checked: set[Path] = set()
    receiver = Receiver(
        tmp_path,
        OXIDICOM_LISTENER_PORT=str(free_port()),
        OXIDICOM_WORKERS=str(workers),
        OXIDICOM_WRITE_MODE=write_mode,
        OXIDICOM_SERIES_SETTLE="200ms",
        OXIDICOM_INCOMPLETE_SETTLE="500ms",
    )
    with receiver:
        senders = Senders(receiver, rng, split=True)
        senders.start()
        while kills < number:
            kill_at_a_random_moment(receiver, senders, rng)
            senders.ledger.check_files(receiver, checked)
            kills += 1 + start_with_kills(receiver, senders, rng)
        ledger = senders.finish()
        wait_until(lambda: receiver.leftovers() == [], "temporary files swept")
        wait_until(lambda: journal_of(receiver) == [], "every series to complete", 60)
        receiver.stop()
    ledger.check_files(receiver)
    # Without a broker the newest registration of each series is in the outbox.
    registered = {entry["series"]["series_instance_uid"]: entry for entry in receiver.outbox()}
    assert set(registered) == set(ledger.series)
    for series, entry in registered.items():
        files = list((receiver.root / entry["series"]["path"]).iterdir())
        assert {instance_of(path) for path in files} == set(ledger.series[series])
        assert entry["ndicom"] == len(files)
    assert receiver.leftovers() == []
    figures(
        f"{kills} kills, {len(ledger.acknowledged)} instances of {len(ledger.series)} series, "
        f"{ledger.interrupted} associations broken, {ledger.refused} refusals; nothing lost"
    )
