"""A Celery application with CUBE's task name, for a real worker of a real broker.

`OXIDICOM_TEST_CUBE_BROKER`, `_QUEUE` and `_ROOT` say where it works; each call becomes one JSON
file in `_CALLS`, with what lay in the series' folder at the moment of the call. With `_TRACES`, the
URL of an OTLP endpoint, it is traced by OpenTelemetry's own instrumentation for Celery.
"""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import Any

from celery import Celery
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

PREFIX = "OXIDICOM_TEST_CUBE_"

app = Celery("cube", broker=os.environ.get(f"{PREFIX}BROKER"))
app.conf.task_default_queue = os.environ.get(f"{PREFIX}QUEUE", "main2")
app.conf.broker_connection_retry_on_startup = True
app.conf.worker_hijack_root_logger = False


if traces := os.environ.get(f"{PREFIX}TRACES"):
    provider = TracerProvider(resource=Resource.create({"service.name": "cube"}))
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(traces)))
    CeleryInstrumentor().instrument(tracer_provider=provider)


@app.task(name="pacsfiles.tasks.register_pacs_series")
def register_pacs_series(
    PatientID: str,
    StudyDate: str,
    StudyInstanceUID: str,
    SeriesInstanceUID: str,
    pacs_name: str,
    path: str,
    ndicom: int,
    PatientName: str | None = None,
    PatientBirthDate: str | None = None,
    PatientAge: int | None = None,
    PatientSex: str | None = None,
    AccessionNumber: str | None = None,
    Modality: str | None = None,
    ProtocolName: str | None = None,
    StudyDescription: str | None = None,
    SeriesDescription: str | None = None,
) -> None:
    """The signature of CUBE's own task: an unknown or missing keyword would fail here as there."""
    call: dict[str, Any] = dict(locals())
    folder = Path(os.environ[f"{PREFIX}ROOT"]) / path
    call["files"] = sorted(file.name for file in folder.rglob("*") if file.is_file())
    calls = Path(os.environ[f"{PREFIX}CALLS"])
    name = uuid.uuid4().hex
    (calls / f"{name}.part").write_text(json.dumps(call))
    (calls / f"{name}.part").rename(calls / f"{name}.json")
