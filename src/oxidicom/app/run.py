"""The process: logging, loop, signals, exit status."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import sys
import threading
from collections.abc import Sequence

import uvloop

from oxidicom import __version__
from oxidicom.app.control_host import data_folder
from oxidicom.app.receiver import Receiver
from oxidicom.app.supervisor import Supervisor
from oxidicom.errors import OperatorError
from oxidicom.logevents import event
from oxidicom.settings import Settings
from oxidicom.telemetry import logs

logger = logging.getLogger("oxidicom")


def run(settings: Settings, warnings: Sequence[str] = ()) -> int:
    """Receive until SIGTERM or SIGINT; returns the exit status: 0, or 1 if it could not start."""
    logs.configure(settings.log_level, settings.log_format, log_phi=settings.log_phi)
    logs.capture_strays()
    for warning in warnings:
        event(logger, logging.WARNING, "suspicious setting", doubt=warning)
    _allow_many_files()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.get_loop().set_exception_handler(logs.on_loop_error)
        status = runner.run(_serve(settings))
    _leave_hung_threads(status)
    return status


def _allow_many_files() -> None:
    """As many handles as the administrator allows, where a shell's default is 1024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _leave_hung_threads(status: int) -> None:
    """Storage that hangs holds threads which the interpreter would wait for at its exit: those of
    executors even where they call themselves daemons, as those made on a daemon's thread do."""
    if threading.active_count() > 1:
        logging.shutdown()
        sys.stdout.flush()
        os._exit(status)


async def _serve(settings: Settings) -> int:
    stop = _signalled()
    make = Receiver if settings.workers == 1 else Supervisor
    receiver = make(settings, uvloop.new_event_loop)
    try:
        ports = await receiver.start()
    except OperatorError as error:
        _tell_faults(error, settings)
        return 1
    # What exists now exists for ever: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    event(
        logger,
        logging.INFO,
        "listening",
        host=settings.listener_host,
        port=ports.plain,
        tls_port=ports.tls,
        admin_port=ports.admin,
        aet=settings.scp_aet,
        files=str(data_folder(settings)),
        workers=settings.workers,
        broker=(settings.broker or settings.cube_url or "none").partition(":")[0],
        version=__version__,
    )
    if ports.tls is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, receiver.reload)
    await stop.wait()
    event(logger, logging.INFO, "shutting down")
    await receiver.drain()
    event(logger, logging.INFO, "stopped")
    return 0


def _tell_faults(error: OperatorError, settings: Settings) -> None:
    """To a person on standard error; where logs are JSON, somebody collects them, and parses each
    line."""
    collected = settings.log_format == "json" and logger.isEnabledFor(logging.ERROR)
    for fault in error.faults:
        if collected:
            event(logger, logging.ERROR, "cannot start", fault=fault)
        else:
            print(f"oxidicom: {fault}", file=sys.stderr)


def _signalled() -> asyncio.Event:
    """Set by the first SIGTERM or SIGINT; the second ends the process at once (decision 38)."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    return stop
