"""A private Orthanc on free ports; `call` uses its REST interface."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from tests.support.brokers import find_program
from tests.support.data import Instance, part_10
from tests.support.ports import free_port
from tests.support.raw_peer import EXPLICIT
from tests.support.receiver import wait_until

ORTHANC = find_program("Orthanc")


class Orthanc:
    """A running Orthanc that knows a receiver at `receiver_port` as `oxidicom`."""

    def __init__(self, folder: Path, receiver_port: int = 0) -> None:
        self.port = free_port()
        self.dicom_port = free_port()
        self.folder = folder
        self.configuration = {
            "Name": "test",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "index"),
            "Plugins": [],
            "HttpPort": self.port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomPort": self.dicom_port,
            "DicomAet": "ORTHANC",
            "DicomAlwaysAllowFind": True,
            "ConcurrentJobs": 4,
            "DicomModalities": {"oxidicom": ["ChRIS", "127.0.0.1", receiver_port or 1]},
        }

    @contextlib.contextmanager
    def running(self) -> Iterator[Self]:
        process = self.start()
        try:
            yield self
        finally:
            process.terminate()
            process.wait(20)
            sys.stderr.write((self.folder / "orthanc.log").read_text(errors="replace")[-2000:])

    def start(self) -> subprocess.Popen[bytes]:
        assert ORTHANC is not None
        path = self.folder / "orthanc.json"
        path.write_text(json.dumps(self.configuration))
        with (self.folder / "orthanc.log").open("wb") as log:
            process = subprocess.Popen([ORTHANC, str(path)], stdout=log, stderr=log)
        wait_until(self.answers, "Orthanc to answer", 30)
        return process

    def answers(self) -> bool:
        try:
            return bool(self.call("/system"))
        except (OSError, urllib.error.URLError):
            return False

    def call(self, path: str, body: bytes | None = None) -> Any:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data=body)
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.loads(response.read())

    def upload(self, instance: Instance) -> str:
        """Upload an instance, and return Orthanc's identifier of its series."""
        identifier = self.call("/instances", part_10(instance, EXPLICIT))["ParentSeries"]
        assert isinstance(identifier, str)
        return identifier

    def store(self, *resources: str) -> Any:
        body = {"Resources": list(resources), "Synchronous": True, "Timeout": 60}
        return self.call("/modalities/oxidicom/store", json.dumps(body).encode())
