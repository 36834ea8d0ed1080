"""Whether each PACS that count queries go to answers a C-ECHO.

One that does not is a warning: it costs the count and nothing else.
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
"""The time limit of all PACS together, in limits of one: nothing interrupts the look-up of a
name."""


def probe_pacs(settings: Settings) -> list[Finding]:
    """Echo every PACS at once. Returns a finding for each address."""
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
        # Only our own errors are written for a person and are known to hold no secret.
        reason = str(error) if isinstance(error, ScuError) else type(error).__name__
        text = (
            f"{address} does not answer a C-ECHO ({reason}): start the PACS, make our AE title"
            f" known to it, or correct {_VARIABLE}"
        )
        return Finding("PACS", Verdict.WARNING, text)
    return Finding("PACS", Verdict.OK, f"{address} answers a C-ECHO")


def _start(address: PacsAddress, calling_ae_title: str) -> Future[None]:
    """Echo on a daemon thread, so that a name server that hangs cannot block the command."""
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
    """Associate and echo, for at most `within` seconds in all. Raises ScuError."""
    peer = Peer(address.host, address.port, address.ae_title, calling_ae_title, timeout=within)
    with Association(peer, (VERIFICATION_CONTEXT,), Limits(seconds=within)) as association:
        association.echo()
