"""The receivers that are measured: where each is found, and how it is started."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

_HERE = Path(__file__).parent

SYSTEM_FOLDERS = ("/usr/sbin",)
"""Folders where Debian keeps daemons, which are not on a user's PATH."""


class Place(NamedTuple):
    """What a receiver is given at its start."""

    port: int
    folder: Path
    """Folder to store into."""
    state: Path
    """Folder for all other files of the receiver."""
    max_pdu: int
    """Bytes of the longest P-DATA-TF that the receiver is to ask for, 0 for unlimited."""
    several: bool
    """Whether several associations will be open at once."""


def _nothing(place: Place) -> dict[str, str]:
    return {}


class Receiver(NamedTuple):
    name: str
    version: str
    command: Callable[[Place], list[str]]
    environment: Callable[[Place], dict[str, str]] = _nothing
    stores_in: str = ""
    """Folder below the given one where instances must be; others do not count as stored."""
    most_associations: int | None = None
    """Greatest number of associations that it accepts at once; it is not given rows with more."""
    stop_signal: signal.Signals = signal.SIGTERM
    note: str = ""


class Missing(NamedTuple):
    """A receiver that was not found, and what to install for it."""

    name: str
    hint: str


def find_receivers(settings: Mapping[str, str], work: Path) -> tuple[list[Receiver], list[Missing]]:
    """Return every receiver of this machine, and those that are missing.

    `settings` are oxidicom's; `work` is a folder for the floor's program.
    """
    looks: list[tuple[str, Callable[[], Receiver | None], str]] = [
        ("floor", lambda: floor(work), "a C compiler, cc"),
        ("oxidicom", lambda: oxidicom(settings), "pip install -e ."),
        ("dcmtk", dcmtk, "apt-get install dcmtk"),
        ("dicom-rs", dicom_rs, "cargo install dicom-storescp"),
        ("orthanc", orthanc, "apt-get install orthanc"),
        ("dcm4che", dcm4che, "https://github.com/dcm4che/dcm4che, and set DCM4CHE_HOME"),
        ("pynetdicom", pynetdicom, "pip install pynetdicom"),
    ]
    tried = [(look(), Missing(name, hint)) for name, look, hint in looks]
    return (
        [receiver for receiver, _ in tried if receiver],
        [missing for receiver, missing in tried if not receiver],
    )


def floor(work: Path) -> Receiver | None:
    """Compile floor.c into `work`: the least work that a correct receiver must do."""
    compiler = shutil.which("cc")
    if not compiler:
        return None
    program = work / "floor"
    command = [compiler, "-O2", "-pthread", "-o", str(program), str(_HERE / "floor.c")]
    try:
        subprocess.run(command, capture_output=True, text=True, check=True)
    except subprocess.CalledProcessError as error:
        print(f"floor.c does not compile here:\n{error.stderr}", file=sys.stderr)
        return None
    return Receiver(
        name="floor",
        version="benchmarks/floor.c",
        command=lambda place: [
            *(str(program), str(place.port), str(place.folder), str(place.max_pdu)),
        ],
        note="frames, writes, renames and answers; reads no tags and keeps no books",
    )


def oxidicom(settings: Mapping[str, str], name: str = "oxidicom") -> Receiver | None:
    """Return the package installed in the running environment; `settings` override all others."""
    found = _package_version("oxidicom")
    if not found:
        return None

    def environment(place: Place) -> dict[str, str]:
        return _without_numpy(place) | {
            "OXIDICOM_FILES_ROOT": str(place.folder),
            "OXIDICOM_LISTENER_HOST": "127.0.0.1",
            "OXIDICOM_LISTENER_PORT": str(place.port),
            "OXIDICOM_SCP_MAX_PDU_LENGTH": str(place.max_pdu),
            **settings,
        }

    said = " ".join(f"{key}={value}" for key, value in settings.items())
    return Receiver(
        name=name,
        version=f"{found} {said}".strip(),
        command=lambda place: [sys.executable, "-m", "oxidicom", "serve"],
        environment=environment,
        stores_in="SERVICES/PACS",
    )


def dcmtk() -> Receiver | None:
    """Return DCMTK's storescp, storing bit by bit. It forks for several associations, since it
    would otherwise serve one peer at a time."""
    said = ""
    for found in _programs("storescp"):
        said = _first_line(found, "--version")
        if "dcmtk" in said:
            break
    else:
        return None
    return Receiver(
        name="dcmtk",
        version=said.strip("$ ").removeprefix("dcmtk: "),
        command=lambda place: [
            *(found, "+B", "-od", str(place.folder)),
            *("--max-pdu", str(min(place.max_pdu or 131072, 131072))),
            *(["--fork"] if place.several else []),
            str(place.port),
        ],
        environment=_dcmtk_environment,
        note="+B, TCP_NODELAY=1; --fork for several associations; PDUs of 128 KiB at most",
    )


def _dcmtk_environment(place: Place) -> dict[str, str]:
    # Its answers leave in two segments: with Nagle's algorithm on, as it is by default, the second
    # waits for the sender's delayed acknowledgement, 40 ms an instance. Orthanc uses DCMTK.
    return {"TCP_NODELAY": "1"}


def dcm4che() -> Receiver | None:
    """Return dcm4che's storescp, a shell script of the same name as DCMTK's program."""
    home = os.environ.get("DCM4CHE_HOME")
    installed = [str(Path(home, "bin"))] if home else map(str, Path("/opt").glob("dcm4che*/bin"))
    said = ""
    for found in _programs("storescp", installed):
        said = _first_line(found, "--version")
        if "dcmtk" not in said and (home or "dcm4che" in said + found):
            break
    else:
        return None
    return Receiver(
        name="dcm4che",
        version=said,
        command=lambda place: [
            *(found, "--bind", f"STORESCP:{place.port}", "--directory", str(place.folder)),
            *("--max-pdulen-rcv", str(place.max_pdu)),
        ],
    )


def dicom_rs() -> Receiver | None:
    found = next(_programs("dicom-storescp"), None)
    if not found:
        return None
    return Receiver(
        name="dicom-rs",
        version=_first_line(found, "--version"),
        command=lambda place: [
            *(found, "-p", str(place.port), "-o", str(place.folder)),
            *("--max-pdu-length", str(place.max_pdu or 1 << 20)),
            *(["--non-blocking"] if place.several else []),
        ],
        note="--non-blocking for several associations",
    )


def orthanc() -> Receiver | None:
    """Return Orthanc with an empty index, no web server, no plugins, and otherwise its defaults."""
    found = next(_programs("Orthanc"), None)
    if not found:
        return None

    def command(place: Place) -> list[str]:
        path = place.state / "orthanc.json"
        configuration = {
            "StorageDirectory": str(place.folder),
            "IndexDirectory": str(place.state),
            "Plugins": [],
            "HttpServerEnabled": False,
            "DicomPort": place.port,
            "DicomCheckCalledAet": False,
            "DicomAlwaysAllowStore": True,
            "DicomThreadsCount": _ORTHANC_THREADS,
            "MaximumPduLength": min(place.max_pdu or 131072, 131072),
            "OverwriteInstances": True,
            "StorageCompression": False,
        }
        path.write_text(json.dumps(configuration))
        return [found, str(path)]

    return Receiver(
        name="orthanc",
        version=_first_line(found, "--version"),
        command=command,
        environment=_dcmtk_environment,
        most_associations=_ORTHANC_THREADS,
        stop_signal=signal.SIGKILL,  # after SIGTERM it takes three seconds to end
        note="TCP_NODELAY=1; as by default an index in SQLite and SyncStorageArea, the fsync of "
        "every file; PDUs of 128 KiB at most",
    )


_ORTHANC_THREADS = 16


def pynetdicom() -> Receiver | None:
    found = _package_version("pynetdicom")
    if not found:
        return None
    return Receiver(
        name="pynetdicom",
        version=f"storescp of pynetdicom {found}",
        command=lambda place: [
            *(sys.executable, "-m", "pynetdicom", "storescp", "--quiet"),
            *("--max-pdu", str(place.max_pdu), "-od", str(place.folder), str(place.port)),
        ],
        environment=_without_numpy,
        most_associations=10,
    )


def _without_numpy(place: Place) -> dict[str, str]:
    # The pictures need numpy. A receiver does not, but pydicom imports it where it is installed,
    # which is 15 MB of memory.
    (place.state / "numpy.py").write_text("raise ImportError('not in a benchmark')\n")
    return {"PYTHONPATH": str(place.state)}


def _package_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _programs(name: str, first: Iterable[str] = ()) -> Iterator[str]:
    """Yield every program of a name: in `first`, on the PATH, in folders of the system and of
    cargo."""
    folders = [*first, *os.environ.get("PATH", "").split(os.pathsep)]
    folders += [*SYSTEM_FOLDERS, str(Path.home() / ".cargo/bin")]
    for folder in folders:
        found = shutil.which(name, path=folder) if folder else None
        if found:
            yield found


def _first_line(*command: str) -> str:
    said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return next(iter((said.stdout or said.stderr).splitlines()), "").strip()
