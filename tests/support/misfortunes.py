"""What may go wrong within a receiver with a patient's data in hand: a `sitecustomize` that makes
it happen there.

Foreign packages that quote values in warnings and messages; callbacks, tasks, threads and
destructors that fail with them as arguments; bugs of ours in each layer.
"""

from __future__ import annotations

from pathlib import Path

QUOTED = "Quoted"
"""In PatientName: what becomes of the series is quoted by everybody."""

LOST = "Lost"
"""In PatientName: the control plane stumbles over an instance."""

BROKEN = "Broken"
"""In PatientID: storing stumbles over an instance."""

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
    """`folder` is to be on the receiver's PYTHONPATH."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_SITECUSTOMIZE)
