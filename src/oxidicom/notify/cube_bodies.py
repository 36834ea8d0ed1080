"""What is said to CUBE over HTTP: the resources' bodies, and the files of custom metadata."""

from __future__ import annotations

from typing import Final

from oxidicom.notify.cube_fields import Fields, cube_fields
from oxidicom.ports import Registration, SeriesInfo

SERIES: Final = "pacs/series/"
FILES: Final = "pacsfiles/"
"""Resources, relative to CUBE's URL."""

EXPECTED: Final = "NumberOfSeriesRelatedInstances"
ATTEMPTED: Final = "OxidicomAttemptedPushCount"
"""Keys of custom metadata."""

UNKNOWN: Final = "unknown"

METADATA_PACS: Final = "org.fnndsc.oxidicom"
"""What CUBE lists custom metadata under, instead of a PACS' name."""

PATH_LIMIT: Final = 1024
"""Characters of a path that CUBE takes."""


def series_body(registration: Registration) -> Fields:
    """The Celery task's fields. Null ones are left out, as the task itself does: over HTTP CUBE
    refuses them."""
    return _present(cube_fields(registration))


def instance_body(registration: Registration, name: str) -> Fields:
    """Of the file `name` in the series' folder, in the first generation's order."""
    fields = cube_fields(registration)
    del fields["ndicom"]
    folder = fields.pop("path")
    return {"path": f"{folder}/{name}", **_present(fields)}


def metadata_body(registration: Registration, path: str, key: str, value: str) -> Fields:
    """Of the empty file at `path` that says `key`=`value` of a series."""
    fields = cube_fields(registration)
    return {
        "path": path,
        "PatientID": fields["PatientID"],
        "StudyDate": fields["StudyDate"],
        "StudyInstanceUID": fields["StudyInstanceUID"],
        "SeriesInstanceUID": fields["SeriesInstanceUID"],
        "pacs_name": METADATA_PACS,
        "ProtocolName": key,
        "SeriesDescription": value,
    }


def metadata_folder(series: SeriesInfo, association: str) -> str:
    """`association`: a UUID. The components of the series' path are short enough already."""
    return f"SERVICES/PACS/{METADATA_PACS}/{series.path}/{association}"


def _present(fields: Fields) -> Fields:
    return {name: value for name, value in fields.items() if value is not None}
