"""Say what would keep `serve` from its work: storage, brokers, CUBE, certificate, ports.

Prints the settings in force, then one line for each thing tried; exits 0 if all is well but for
warnings, 1 if not, 2 if the settings themselves are at fault.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Final

from oxidicom.cli.arguments import add_json, describe
from oxidicom.cli.console import EXIT_SETTINGS, print_json, settings_of_environment
from oxidicom.cli.probes import LIMIT, Finding, Verdict
from oxidicom.cli.probes.broker import probe_broker
from oxidicom.cli.probes.cube import probe_cube
from oxidicom.cli.probes.listener import probe_listener
from oxidicom.cli.probes.nats import probe_nats
from oxidicom.cli.probes.pacs import probe_pacs
from oxidicom.cli.probes.storage import probe_storage
from oxidicom.cli.probes.tls import probe_tls
from oxidicom.settings import Settings, effective

Probe = Callable[[Settings], list[Finding]]

_PROBES: Final[Mapping[str, Probe]] = {
    "storage": probe_storage,
    "broker": probe_broker,
    "CUBE": probe_cube,
    "NATS": probe_nats,
    "PACS": probe_pacs,
    "TLS": probe_tls,
    "listener": probe_listener,
}
_MORE: Final = """\
examples:
  docker compose run --rm oxidicom oxidicom check
  oxidicom check --json | jq '.findings[] | select(.verdict == "fault")'

exit status:
  0   all is well, but for warnings
  1   something would keep `serve` from its work
  2   settings at fault
"""
_PATIENCE: Final = 3 * LIMIT
"""Seconds for all probes together; name look-ups may take longer than LIMIT."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is checked is what `serve` would do in the same environment."""
    add_json(parser, "one object: settings, findings, and whether all is well")
    describe(parser, _MORE)


def run(arguments: argparse.Namespace) -> int:
    loaded = settings_of_environment()
    if loaded is None:
        return EXIT_SETTINGS
    settings, warnings = loaded
    if arguments.json:
        return _run_json(settings, warnings)
    _print_settings(settings)
    print(flush=True)
    well = True
    for finding in _findings(settings):
        print(f"{finding.subject:<10}{finding.verdict.value:<9}{finding.text}", flush=True)
        well = well and finding.verdict is not Verdict.FAULT
    return 0 if well else 1


def _run_json(settings: Settings, warnings: list[str]) -> int:
    findings = list(_findings(settings))
    well = all(finding.verdict is not Verdict.FAULT for finding in findings)
    print_json(
        {
            "ok": well,
            "settings": [line._asdict() for line in effective(settings)],
            "warnings": warnings,
            "findings": [
                {
                    "subject": finding.subject,
                    "verdict": finding.verdict.name.lower(),
                    "text": finding.text,
                }
                for finding in findings
            ],
        }
    )
    return 0 if well else 1


def _print_settings(settings: Settings) -> None:
    lines = effective(settings)
    width = max(len(line.name) for line in lines)
    for name, value, is_default in lines:
        print(f"{name:<{width}}  {value}{'  (default)' if is_default else ''}")


def _findings(settings: Settings) -> Iterator[Finding]:
    """In a fixed order, all tried at once; storage that hangs does not hang us."""
    deadline = time.monotonic() + _PATIENCE
    for subject, future in [
        (subject, _start(probe, settings)) for subject, probe in _PROBES.items()
    ]:
        try:
            yield from future.result(max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            text = f"no answer within {_PATIENCE:.0f} s: it hangs; see to the machine behind it"
            yield Finding(subject, Verdict.FAULT, text)


def _start(probe: Probe, settings: Settings) -> Future[list[Finding]]:
    """On a daemon thread: one that waits for a dead file server can never be joined."""
    future: Future[list[Finding]] = Future()

    def run() -> None:
        try:
            future.set_result(probe(settings))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name=f"check {probe.__name__}", daemon=True).start()
    return future
