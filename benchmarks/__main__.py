"""Receivers in turn, round after round; a table on standard output, everything as JSON."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import msgspec

from benchmarks import receivers
from benchmarks.receivers import Receiver
from benchmarks.report import report_of, table, this_machine
from benchmarks.trial import FULL, QUICK, Scenario, Trial, run_trial

BASELINE = "dcmtk"


def main() -> int:
    """0, or 1 where a receiver failed or dropped what it had acknowledged."""
    options = arguments()
    scenarios = QUICK if options.quick else FULL
    rounds = options.rounds or (3 if options.quick else 5)
    chosen = available(options)
    machine = this_machine()
    root = Path(tempfile.mkdtemp(prefix="oxidicom-bench-", dir=options.root))
    try:
        trials = [one_round(n + 1, rounds, chosen, scenarios, root) for n in range(rounds)]
    finally:
        shutil.rmtree(root, ignore_errors=True)
    report = report_of(machine, chosen, scenarios, trials, BASELINE)
    print(table(report))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    return 1 if report.failed else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a fifth of the instances, 3 rounds")
    parser.add_argument("--rounds", type=int, help="default: 5")
    parser.add_argument("--only", default="", help="names of receivers, with commas between")
    parser.add_argument("--broker", help="for oxidicom: OXIDICOM_CELERY_BROKER")
    parser.add_argument("--nats", help="for oxidicom: OXIDICOM_NATS_ADDRESS")
    parser.add_argument("--root", default="/dev/shm", help="store below this folder")
    parser.add_argument("--json", type=Path, default=Path("build/benchmark.json"))
    return parser.parse_args()


def available(options: argparse.Namespace) -> list[Receiver]:
    found = {
        receiver.name: receiver
        for receiver in (
            receivers.oxidicom(options.broker, options.nats),
            receivers.dcmtk(),
            receivers.pynetdicom(),
        )
        if receiver
    }
    names = [name for name in options.only.split(",") if name] or list(found)
    unknown = [name for name in names if name not in found]
    if unknown:
        sys.exit(f"not on this machine: {', '.join(unknown)}; there is {', '.join(found)}")
    return [found[name] for name in names]


def one_round(
    number: int,
    rounds: int,
    chosen: list[Receiver],
    scenarios: tuple[Scenario, ...],
    root: Path,
) -> list[Trial]:
    trials = []
    for scenario in scenarios:
        for receiver in chosen:
            progress = f"round {number} of {rounds}: {scenario.name}: {receiver.name} "
            print(f"\r{progress:60}", end="", file=sys.stderr, flush=True)
            trials.append(run_trial(receiver, scenario, root))
    print("\r" + " " * 60, end="\r", file=sys.stderr, flush=True)
    return trials


if __name__ == "__main__":
    sys.exit(main())
