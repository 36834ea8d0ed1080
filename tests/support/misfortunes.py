"""Faults inside a receiver that holds patient data, brought about by a `sitecustomize`.

Foreign packages quote values in warnings and messages; callbacks, tasks, threads and destructors
fail with values as arguments; each layer has a bug.
"""

from __future__ import annotations

from pathlib import Path

QUOTED = "Quoted"
"""PatientName of a series whose data every package quotes."""

LOST = "Lost"
"""PatientName of an instance at which the control plane fails."""

BROKEN = "Broken"
"""PatientID of an instance at which storing fails."""

_SITECUSTOMIZE = f"""
import asyncio, gc, logging, threading, time, warnings

import oxidicom.notify.outbox_store as outbox
import oxidicom.series.tracker as tracker
import oxidicom.store.identity as names


class Doomed:
    def __init__(self, name):
        self.name = name

    def __del__(self):
        raise ValueError(self.name)


def fail(name):
    try:
        raise KeyError(name)
    except KeyError as error:
        raise ValueError(f"no such patient: {{name}}") from error


async def fail_later(name):
    fail(name)


def quote(name):
    warnings.warn(f"Invalid value for VR PN: {{name}}")
    warnings.warn(name, DeprecationWarning)
    foreign = logging.getLogger("pydicom")
    foreign.warning("Invalid value: %s", name)
    foreign.warning(f"Invalid value {{name}}")
    foreign.error(name)
    foreign.error("wrong arguments %d", name)
    try:
        fail(name)
    except ValueError:
        foreign.exception(f"Failed with {{name}}")
    loop = asyncio.get_running_loop()
    loop.call_soon(fail, name)
    loop.call_soon(time.sleep, 0.11)  # which asyncio's debug mode complains of, with arguments
    loop.create_task(fail_later(name), name=name)
    loop.call_exception_handler({{"message": "odd " + repr(name), "exception": ValueError(name)}})
    threading.Thread(target=fail, args=(name,), name="doomed").start()
    Doomed(name)
    fail_later(name)  # never awaited
    gc.collect()


stored = tracker.SeriesTracker.stored


def stored_with_misfortunes(self, report):
    name = report.series.patient_name or ""
    if {QUOTED!r} in name:
        quote(name)
    if {LOST!r} in name:
        fail(name)
    return stored(self, report)


tracker.SeriesTracker.stored = stored_with_misfortunes

series_folder = names.series_folder


def stumbling_series_folder(*, patient_id, **others):
    if {BROKEN!r} in patient_id:
        fail(patient_id)
    return series_folder(patient_id=patient_id, **others)


names.series_folder = stumbling_series_folder

read = outbox.Outbox.read
stumbled = []


def stumbling_read(self, name):
    entry = read(self, name)
    if entry is not None and not stumbled:
        stumbled.append(name)
        fail(entry.registration.series.patient_name)
    return entry


outbox.Outbox.read = stumbling_read
"""


def install(folder: Path) -> None:
    """Write the module into `folder`, which is to be on the receiver's PYTHONPATH."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_SITECUSTOMIZE)
