"""Bodies of the HTTP requests to CUBE, and the folders of custom metadata files."""

from __future__ import annotations

from typing import Final

from oxidicom.notify.cube_fields import Fields, cube_fields
from oxidicom.ports import Registration, SeriesInfo

SERIES_RESOURCE: Final = "pacs/series/"
FILES_RESOURCE: Final = "pacsfiles/"
"""Paths of the two CUBE resources that take registrations, relative to CUBE's URL."""

EXPECTED_KEY: Final = "NumberOfSeriesRelatedInstances"
ATTEMPTED_KEY: Final = "OxidicomAttemptedPushCount"
"""Keys of custom metadata: the number of instances that the PACS holds, and of those received."""

UNKNOWN_COUNT: Final = "unknown"
"""Value of EXPECTED_KEY if the number of instances in the PACS is unknown."""

METADATA_PACS: Final = "org.fnndsc.oxidicom"
"""Value of `pacs_name` in registrations of custom metadata, in place of a PACS."""

MAX_PATH_CHARACTERS: Final = 1024
"""Number of characters of the longest path that CUBE accepts."""


def series_body(registration: Registration) -> Fields:
    """Return the body for a whole series: the fields of the Celery task except null ones.

    CUBE refuses null over HTTP.
    """
    return _present(cube_fields(registration))


def instance_body(registration: Registration, name: str) -> Fields:
    """Return the body for the file `name` of the series folder.

    The fields are in the order in which the first generation sent them.
    """
    fields = cube_fields(registration)
    del fields["ndicom"]
    folder = fields.pop("path")
    return {"path": f"{folder}/{name}", **_present(fields)}


def metadata_body(registration: Registration, path: str, key: str, value: str) -> Fields:
    """Return the body for the empty file at `path`, which represents `key`=`value` of a series."""
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
    """Return the folder for the custom metadata of a series, relative to the files root.

    `association` is a UUID, which keeps the metadata of repeated transmissions apart.
    """
    return f"SERVICES/PACS/{METADATA_PACS}/{series.path}/{association}"


def _present(fields: Fields) -> Fields:
    return {name: value for name, value in fields.items() if value is not None}
