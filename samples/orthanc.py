"""A private Orthanc: the PACS that the study set is pushed from."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from samples.mover import MOVER_AE_TITLE
from samples.process import Server, environment_without, free_port
from samples.receiver import Destination

STORE_AE_TITLE = "PACS_STORE"
MOVE_AE_TITLE = "PACS_MOVE"
"""Orthanc's own AE title. What it pushes by its REST interface uses the other title, so that the
receiver keeps the two apart."""

TIMEOUT = 600
"""Seconds of a request, and of the receiver's answer to an instance."""

_MODALITY = "receiver"


class OrthancError(Exception):
    """Orthanc is not installed, does not answer, or refused a request."""


def find_orthanc() -> str | None:
    """Return Orthanc's program. Debian keeps daemons off a user's PATH."""
    return shutil.which("Orthanc", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin")


class Orthanc(Server):
    """A running Orthanc on free ports of 127.0.0.1, with storage and index below `folder`."""

    name = "Orthanc"

    def __init__(self, folder: Path) -> None:
        """Raises OrthancError where Orthanc is not installed."""
        program = find_orthanc()
        if program is None:
            raise OrthancError("Orthanc is not installed: sudo apt-get install orthanc")
        self.dicom_port = free_port()
        self._http_port = free_port()
        configuration = {
            "Name": "samples",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "index"),
            "Plugins": [],
            "HttpPort": self._http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomAet": MOVE_AE_TITLE,
            "DicomPort": self.dicom_port,
            "DicomCheckCalledAet": True,
            "DicomScuTimeout": TIMEOUT,
            "DicomModalities": {"mover": [MOVER_AE_TITLE, "127.0.0.1", 1]},
            "SaveJobs": False,
            # Orthanc 1.12 would decompress an instance whose class its association proposed without
            # the instance's transfer syntax; so it negotiates again, as Orthanc 1.10 did.
            "TranscodeDicomProtocol": False,
        }
        path = folder / "orthanc.json"
        path.write_text(json.dumps(configuration, indent=1))
        super().__init__([program, str(path)], environment_without(()), folder / "orthanc.log")

    def answers(self) -> bool:
        try:
            return bool(self._call("GET", "/system"))
        except OrthancError:
            return False

    def load(self, file: Path) -> None:
        self._call("POST", "/instances", file.read_bytes())

    def send_to(self, destination: Destination) -> None:
        """Set the destination of `store`, which a C-MOVE may name by its AE title."""
        modality = [destination.ae_title, destination.host, destination.port]
        self._call("PUT", f"/modalities/{_MODALITY}", json.dumps(modality).encode())

    def store(self, series_instance_uid: str) -> int:
        """Push a series by C-STORE, and return how many instances failed.

        Raises OrthancError if the receiver cannot be reached or refuses the association.
        """
        (series,) = self._call("POST", "/tools/lookup", series_instance_uid.encode())
        order = {
            "Resources": [series["ID"]],
            "LocalAet": STORE_AE_TITLE,
            "Synchronous": True,
            "Timeout": TIMEOUT,
        }
        done = self._call("POST", f"/modalities/{_MODALITY}/store", json.dumps(order).encode())
        return int(done["FailedInstancesCount"])

    def _call(self, method: str, path: str, body: bytes | None = None) -> Any:
        url = f"http://127.0.0.1:{self._http_port}{path}"
        request = urllib.request.Request(url, body, method=method)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
                answer = response.read()
        except urllib.error.HTTPError as error:
            raise OrthancError(f"Orthanc, {method} {path}: {_reason(error)}") from error
        except (OSError, http.client.HTTPException) as error:
            raise OrthancError(f"Orthanc does not answer: {error}") from error
        return json.loads(answer) if answer else None


def _reason(error: urllib.error.HTTPError) -> str:
    """Return the explanation that Orthanc gives in JSON."""
    try:
        said = json.loads(error.read())
        return str(said.get("Details") or said["Message"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return str(error)
