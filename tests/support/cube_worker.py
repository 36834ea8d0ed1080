"""A real Celery worker, set up as CUBE's, whose calls are each under way until a test answers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.support.brokers import Broker

# The signature is that of CUBE's chris_backend/pacsfiles/tasks.py. Each call is told to the test,
# and returns when the test answers.
WORKER = """
import json, os, socket
from celery import Celery

app = Celery("cube", broker=os.environ["BROKER"])
app.conf.task_default_queue = "celery"


@app.task(name="pacsfiles.tasks.register_pacs_series")
def register_pacs_series(
    PatientID, StudyDate, StudyInstanceUID, SeriesInstanceUID, pacs_name, path, ndicom,
    PatientName=None, PatientBirthDate=None, PatientAge=None, PatientSex=None,
    AccessionNumber=None, Modality=None, ProtocolName=None, StudyDescription=None,
    SeriesDescription=None,
):
    call = dict(locals())
    call["task_id"] = register_pacs_series.request.id
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(os.environ["TEST_SOCKET"])
        line.sendall(json.dumps(call).encode() + b"\\n")
        line.recv(1)
"""


class CubeWorker:
    """The calls it runs, one at a time, each under way until it is answered."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self.log = log
        self._calls: asyncio.Queue[tuple[dict[str, Any], asyncio.StreamWriter]] = asyncio.Queue()

    async def on_call(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._calls.put((json.loads(await reader.readline()), writer))

    async def called(self) -> tuple[dict[str, Any], asyncio.StreamWriter]:
        async with asyncio.timeout(20):
            return await self._calls.get()

    async def run(self) -> dict[str, Any]:
        call, writer = await self.called()
        self.answer(writer)
        return call

    @staticmethod
    def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"!")
        writer.close()

    async def shut_down_warmly(self) -> None:
        """Return when it waits for nothing but the task under way."""
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            while "Worker: Stopping Pool" not in self.log.read_text():  # noqa: ASYNC110 (a log)
                await asyncio.sleep(0.02)

    async def ended(self) -> int:
        async with asyncio.timeout(20):
            return await self.process.wait()


@asynccontextmanager
async def cube_worker(
    broker: Broker, queue: str, folder: Path, pool: str
) -> AsyncIterator[CubeWorker]:
    (folder / "cube.py").write_text(WORKER)
    socket_path = folder / "s"
    log = folder / "worker.log"
    with open(log, "wb") as output:  # noqa: ASYNC230 (a local file)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "celery", "-A", "cube", "worker", "-Q", queue),
            *("-P", pool, "-c", "1", "-l", "DEBUG"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat"),
            cwd=folder,
            env={**os.environ, "BROKER": broker.url, "TEST_SOCKET": str(socket_path)},
            stdout=output,
            stderr=output,
        )
    worker = CubeWorker(process, log)
    listener = await asyncio.start_unix_server(worker.on_call, socket_path)
    try:
        yield worker
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        listener.close()
