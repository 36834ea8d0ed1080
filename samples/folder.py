"""The study set on disk: Part 10 files and their manifest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from pydicom import Dataset

from samples.identity import Series
from samples.study_set import Size, study_set

MANIFEST = "manifest.json"
STUDIES = "studies"
RECEIVED = "received"


class FolderError(Exception):
    """The folder is not what the operator expected; the text says what to do."""


@dataclass(frozen=True)
class BuiltInstance:
    sop_instance_uid: str
    path: str
    """Path relative to the folder."""
    length: int
    """Bytes of the file."""


@dataclass(frozen=True)
class BuiltSeries:
    study_instance_uid: str
    series_instance_uid: str
    modality: str
    description: str
    transfer_syntax_uid: str
    instances: list[BuiltInstance]

    @property
    def length(self) -> int:
        return sum(instance.length for instance in self.instances)


def build(folder: Path, size: Size) -> Generator[BuiltSeries]:
    """Write one series after another, replacing what was built there before.

    Raises FolderError, before anything is changed, if `folder` holds something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / MANIFEST
    if not manifest.exists() and any(folder.iterdir()):
        raise FolderError(f"{folder} holds something that was not built here: name an empty folder")
    # Until the set is complete again, the folder is ours but holds nothing to push.
    manifest.write_text("[]\n")
    shutil.rmtree(folder / STUDIES, ignore_errors=True)
    built = []
    for series, instances in study_set(size):
        one = _write_series(folder, series, instances)
        built.append(one)
        yield one
    manifest.write_text(json.dumps([asdict(one) for one in built], indent=1) + "\n")


def _write_series(folder: Path, series: Series, instances: Iterator[Dataset]) -> BuiltSeries:
    written = []
    transfer_syntax = ""
    place = Path(STUDIES) / series.folder
    (folder / place).mkdir(parents=True)
    for made in instances:
        path = place / f"{made.InstanceNumber:04}.dcm"
        made.save_as(folder / path, enforce_file_format=True)
        transfer_syntax = str(made.file_meta.TransferSyntaxUID)
        length = (folder / path).stat().st_size
        written.append(BuiltInstance(made.SOPInstanceUID, path.as_posix(), length))
    return BuiltSeries(
        series.study.study_instance_uid,
        series.series_instance_uid,
        series.modality,
        series.description,
        transfer_syntax,
        written,
    )


def read_manifest(folder: Path) -> list[BuiltSeries]:
    """Read the manifest. Raises FolderError where no complete set was built."""
    try:
        entries = json.loads((folder / MANIFEST).read_text())
    except FileNotFoundError:
        entries = []
    if not entries:
        raise FolderError(f"no study set in {folder}: first python -m samples build {folder}")
    return [
        BuiltSeries(**entry | {"instances": [BuiltInstance(**one) for one in entry["instances"]]})
        for entry in entries
    ]
