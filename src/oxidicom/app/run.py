"""Runs the receiver's main process: logging, event loop, signals, exit status."""

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
from oxidicom.thread_names import name_this_thread

logger = logging.getLogger("oxidicom")


def run(settings: Settings, warnings: Sequence[str] = ()) -> int:
    """Run the receiver until SIGTERM or SIGINT.

    `warnings` are texts about suspicious settings, which are logged. Return the exit status: 0, or
    1 if the receiver could not start.
    """
    name_this_thread("oxidicom")
    logs.configure(settings.log_level, settings.log_format, log_phi=settings.log_phi)
    logs.log_uncaught_errors()
    for warning in warnings:
        event(logger, logging.WARNING, "suspicious setting", doubt=warning)
    _allow_many_files()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.get_loop().set_exception_handler(logs.on_loop_error)
        status = runner.run(_serve(settings))
    _exit_despite_hung_threads(status)
    return status


def _allow_many_files() -> None:
    """Raise this process' limit of open files, often 1024, to the hard limit."""
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))


def _exit_despite_hung_threads(status: int) -> None:
    """Exit at once if other threads remain, perhaps because they are blocked by hung storage.

    Otherwise the interpreter would wait for them at exit, even for daemon threads of executors.
    """
    if threading.active_count() > 1:
        logging.shutdown()
        sys.stdout.flush()
        os._exit(status)


async def _serve(settings: Settings) -> int:
    stop = _stop_event()
    make = Receiver if settings.workers == 1 else Supervisor
    receiver = make(settings, uvloop.new_event_loop)
    try:
        ports = await receiver.start()
    except OperatorError as error:
        _report_faults(error, settings)
        return 1
    # Objects created so far stay until the end; freezing lets the garbage collector skip them.
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


def _report_faults(error: OperatorError, settings: Settings) -> None:
    """Print the faults on standard error, or log them if the log format is JSON.

    With JSON, a log collector parses each line of the output.
    """
    collected = settings.log_format == "json" and logger.isEnabledFor(logging.ERROR)
    for fault in error.faults:
        if collected:
            event(logger, logging.ERROR, "cannot start", fault=fault)
        else:
            print(f"oxidicom: {fault}", file=sys.stderr)


def _stop_event() -> asyncio.Event:
    """Return an event that the first SIGTERM or SIGINT sets.

    The second one ends the process at once, with status 128 + its number (decision 38).
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    return stop
