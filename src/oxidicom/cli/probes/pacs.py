"""Probe of the PACS: each one that receives count queries must answer a C-ECHO.

One that does not is only a warning, because only the expected count is missing.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from typing import Final

from oxidicom.cli.probes import PROBE_LIMIT_S, Finding, Verdict
from oxidicom.scu.association import VERIFICATION_CONTEXT, Association
from oxidicom.scu.connection import Limits, Peer
from oxidicom.scu.errors import ScuError
from oxidicom.settings import Settings
from oxidicom.settings.addresses import PacsAddress

_VARIABLE: Final = "OXIDICOM_PACS_ADDRESS"
_TOTAL_LIMITS: Final = 2
"""Time limit of all PACS together, in multiples of PROBE_LIMIT_S. It is greater than 1, because
the resolution of a host's name cannot be interrupted."""


def probe_pacs(settings: Settings) -> list[Finding]:
    """Send a C-ECHO to all PACS at the same time; return a finding for each."""
    if not settings.pacs_addresses:
        text = f"no PACS is asked how many instances a series has; set {_VARIABLE} to change that"
        return [Finding("PACS", Verdict.NOT_SET, text)]
    deadline = time.monotonic() + _TOTAL_LIMITS * PROBE_LIMIT_S
    answers = [(each, _start(each, settings.scp_aet)) for each in settings.pacs_addresses]
    return [_finding(address, answer, deadline) for address, answer in answers]


def _finding(address: PacsAddress, answer: Future[None], deadline: float) -> Finding:
    try:
        answer.result(max(0.0, deadline - time.monotonic()))
    except Exception as error:
        # Only the texts of our own errors are known to contain no secrets.
        reason = str(error) if isinstance(error, ScuError) else type(error).__name__
        text = (
            f"{address} does not answer a C-ECHO ({reason}): start the PACS, make our AE title"
            f" known to it, or correct {_VARIABLE}"
        )
        return Finding("PACS", Verdict.WARNING, text)
    return Finding("PACS", Verdict.OK, f"{address} answers a C-ECHO")


def _start(address: PacsAddress, calling_ae_title: str) -> Future[None]:
    """Run `echo` on a daemon thread and return the future of its end.

    A name server that hangs must not block the command.
    """
    future: Future[None] = Future()

    def run() -> None:
        try:
            echo(address, calling_ae_title, PROBE_LIMIT_S)
            future.set_result(None)
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name=f"check {address.ae_title}", daemon=True).start()
    return future


def echo(address: PacsAddress, calling_ae_title: str, within: float) -> None:
    """Associate and send a C-ECHO. Raises ScuError.

    It takes at most `within` seconds, plus the time to resolve the host's name.
    """
    peer = Peer(address.host, address.port, address.ae_title, calling_ae_title, timeout=within)
    with Association(peer, (VERIFICATION_CONTEXT,), Limits(seconds=within)) as association:
        association.echo()
