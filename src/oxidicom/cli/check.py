"""Test whether `serve` could work here: storage, brokers, CUBE, PACS, certificate and ports.

The command prints the settings in force, then one finding per line. Its exit status is 0 if there
is no fault, even if there are warnings, 1 if there is a fault, and 2 if the settings are invalid.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Final

from oxidicom.cli.arguments import add_json, set_epilog
from oxidicom.cli.console import EXIT_FAULT, EXIT_SETTINGS, print_json, settings_of_environment
from oxidicom.cli.probes import PROBE_LIMIT_S, Finding, Verdict
from oxidicom.cli.probes.broker import probe_broker
from oxidicom.cli.probes.cube import probe_cube
from oxidicom.cli.probes.listener import probe_listener
from oxidicom.cli.probes.nats import probe_nats
from oxidicom.cli.probes.pacs import probe_pacs
from oxidicom.cli.probes.storage import probe_storage
from oxidicom.cli.probes.tls import probe_tls
from oxidicom.settings import Settings, effective

Probe = Callable[[Settings], list[Finding]]
"""Function that examines one part of the environment of `serve` and returns what it found."""

_PROBES: Final[Mapping[str, Probe]] = {
    "storage": probe_storage,
    "broker": probe_broker,
    "CUBE": probe_cube,
    "NATS": probe_nats,
    "PACS": probe_pacs,
    "TLS": probe_tls,
    "listener": probe_listener,
}
_EPILOG: Final = """\
examples:
  docker compose run --rm oxidicom oxidicom check
  oxidicom check --json | jq '.findings[] | select(.verdict == "fault")'

exit status:
  0   no fault; there may be warnings
  1   at least one fault that would keep `serve` from working
  2   the settings are invalid
"""
_ALL_PROBES_LIMIT_S: Final = 3 * PROBE_LIMIT_S
"""Time limit in seconds for all probes together. It is greater than PROBE_LIMIT_S, because that
does not limit the resolution of a host's name."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_json(parser, "print one JSON object: settings, findings, and whether there is no fault")
    set_epilog(parser, _EPILOG)


def run(arguments: argparse.Namespace) -> int:
    loaded = settings_of_environment()
    if loaded is None:
        return EXIT_SETTINGS
    settings, warnings = loaded
    if arguments.json:
        return _run_json(settings, warnings)
    _print_settings(settings)
    print(flush=True)
    ok = True
    for finding in _findings(settings):
        print(f"{finding.subject:<10}{finding.verdict.value:<9}{finding.text}", flush=True)
        ok = ok and finding.verdict is not Verdict.FAULT
    return 0 if ok else EXIT_FAULT


def _run_json(settings: Settings, warnings: list[str]) -> int:
    findings = list(_findings(settings))
    ok = all(finding.verdict is not Verdict.FAULT for finding in findings)
    print_json(
        {
            "ok": ok,
            "settings": [
                {"name": name, "value": value, "default": is_default}
                for name, value, is_default in effective(settings)
            ],
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
    return 0 if ok else EXIT_FAULT


def _print_settings(settings: Settings) -> None:
    lines = effective(settings)
    width = max(len(line.name) for line in lines)
    for name, value, is_default in lines:
        print(f"{name:<{width}}  {value}{'  (default)' if is_default else ''}")


def _findings(settings: Settings) -> Iterator[Finding]:
    """Run all probes at the same time and yield their findings in the order of `_PROBES`.

    A probe that does not end within `_ALL_PROBES_LIMIT_S` yields a fault instead. Raises what a
    probe raises.
    """
    deadline = time.monotonic() + _ALL_PROBES_LIMIT_S
    for subject, future in [
        (subject, _start(probe, settings)) for subject, probe in _PROBES.items()
    ]:
        try:
            yield from future.result(max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            text = f"no answer within {_ALL_PROBES_LIMIT_S:.0f} s: it hangs; check its server"
            yield Finding(subject, Verdict.FAULT, text)


def _start(probe: Probe, settings: Settings) -> Future[list[Finding]]:
    """Run a probe on a daemon thread and return the future of its findings.

    A probe that waits for a dead file server cannot be ended, and must not block the exit.
    """
    future: Future[list[Finding]] = Future()

    def run() -> None:
        try:
            future.set_result(probe(settings))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name=f"check {probe.__name__}", daemon=True).start()
    return future
