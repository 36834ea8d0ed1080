"""Bodies of the requests to CUBE over HTTP, and the names of the files of custom metadata."""

from __future__ import annotations

from typing import Final

from oxidicom.notify.cube_fields import Fields, cube_fields
from oxidicom.ports import Registration, SeriesInfo

SERIES_RESOURCE: Final = "pacs/series/"
FILES_RESOURCE: Final = "pacsfiles/"
"""Resources, relative to CUBE's URL."""

EXPECTED_KEY: Final = "NumberOfSeriesRelatedInstances"
ATTEMPTED_KEY: Final = "OxidicomAttemptedPushCount"
"""Keys of custom metadata."""

UNKNOWN_COUNT: Final = "unknown"
"""The value of EXPECTED_KEY where the PACS has not told a number."""

METADATA_PACS: Final = "org.fnndsc.oxidicom"
"""The name under which CUBE lists custom metadata, in place of that of a PACS."""

MAX_PATH_CHARACTERS: Final = 1024
"""The longest path that CUBE accepts."""


def series_body(registration: Registration) -> Fields:
    """Return the fields of the Celery task without null ones, which CUBE refuses over HTTP."""
    return _present(cube_fields(registration))


def instance_body(registration: Registration, name: str) -> Fields:
    """Return the body for the file `name` of the series folder, in the first generation's order."""
    fields = cube_fields(registration)
    del fields["ndicom"]
    folder = fields.pop("path")
    return {"path": f"{folder}/{name}", **_present(fields)}


def metadata_body(registration: Registration, path: str, key: str, value: str) -> Fields:
    """Return the body for the empty file at `path` that tells `key`=`value` of a series."""
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
    """Return the folder of a series' custom metadata; `association` is a UUID."""
    return f"SERVICES/PACS/{METADATA_PACS}/{series.path}/{association}"


def _present(fields: Fields) -> Fields:
    return {name: value for name, value in fields.items() if value is not None}
