"""Could the PACS be asked how many instances a series has?

One that is away costs that count only, so it is a warning.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from typing import Final

from oxidicom.cli.probes import LIMIT, Finding, Verdict
from oxidicom.settings import Settings
from oxidicom.settings.addresses import PacsAddress

_VARIABLE: Final = "OXIDICOM_PACS_ADDRESS"
_PATIENCE: Final = 2.0
"""Times LIMIT, for all of them together: nothing ends the look-up of a name."""


def probe_pacs(settings: Settings) -> list[Finding]:
    if not settings.pacs_addresses:
        text = f"nobody is asked how many instances a series has; to ask, set {_VARIABLE}"
        return [Finding("PACS", Verdict.NOT_SET, text)]
    deadline = time.monotonic() + _PATIENCE * LIMIT
    answers = [(each, _start(each, settings.scp_aet)) for each in settings.pacs_addresses]
    return [_finding(address, answer, deadline) for address, answer in answers]


def _finding(address: PacsAddress, answer: Future[None], deadline: float) -> Finding:
    try:
        answer.result(max(0.0, deadline - time.monotonic()))
    except Exception as error:
        # Of pynetdicom's errors and ours only the latter speak to a person, and hold no secret.
        words = str(error) or type(error).__name__
        text = (
            f"{address} does not answer a C-ECHO ({words}): start it there, have it know us as"
            f" a peer, or correct {_VARIABLE}"
        )
        return Finding("PACS", Verdict.WARNING, text)
    return Finding("PACS", Verdict.OK, f"{address} answers a C-ECHO")


def _start(address: PacsAddress, calling_ae_title: str) -> Future[None]:
    """On a daemon thread, so that a name server that hangs does not hang us."""
    future: Future[None] = Future()

    def run() -> None:
        try:
            from oxidicom.scu.pacs_echo import echo  # late, like all that only one command needs

            echo(address, calling_ae_title, LIMIT)
            future.set_result(None)
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name=f"check {address.ae_title}", daemon=True).start()
    return future
