"""The sixteen fields of a registration, in CUBE's order and within CUBE's limits (decision 34).

CUBE refuses a whole series because of one illegal optional field, so such a field becomes null. A
required field is only cut to CUBE's limit: if it is illegal, CUBE's refusal names it.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Final

import msgspec

from oxidicom.ports import Registration

MAX_FIELD_CHARACTERS: Final = {
    "path": 1024,
    "patient_id": 100,
    "study_date": 10,
    "study_instance_uid": 100,
    "series_instance_uid": 100,
    "patient_name": 150,
    "patient_birth_date": 64,
    "patient_sex": 16,
    "accession_number": 100,
    "modality": 15,
    "protocol_name": 64,
    "study_description": 400,
    "series_description": 400,
}
"""CUBE's `max_length` (pacsfiles/models.py) of each field that has one."""

_SEXES: Final = frozenset("MFO")
"""Values of PatientSex that CUBE accepts."""
_DATE: Final = re.compile(r"(\d{4})(-?)(\d{2})\2(\d{2})", re.ASCII)
_MAX_INTEGER: Final = 2**31 - 1
"""The greatest value of PostgreSQL's integer, the column type of PatientAge."""

Fields = dict[str, str | int | None]
"""Values of a registration or of a request's body, by CUBE's field names."""


def fit(registration: Registration) -> Registration:
    """Return the registration with its texts cut to CUBE's limits and encodable in UTF-8.

    This keeps outbox entries small, however long the values in the data set are.
    """
    series = registration.series
    texts = {name: getattr(series, name) for name in MAX_FIELD_CHARACTERS}
    fitted = {
        name: text[: MAX_FIELD_CHARACTERS[name]].encode("utf-8", "replace").decode()
        for name, text in texts.items()
        if text is not None
    }
    fitted_series = msgspec.structs.replace(series, **fitted)
    return msgspec.structs.replace(registration, series=fitted_series)


def cube_fields(registration: Registration) -> Fields:
    """Return the sixteen fields by CUBE's names; optional ones that CUBE would refuse are None."""
    series = fit(registration).series
    return {
        "PatientID": series.patient_id,
        "StudyDate": series.study_date,
        "StudyInstanceUID": series.study_instance_uid,
        "SeriesInstanceUID": series.series_instance_uid,
        "pacs_name": series.pacs_name,
        "path": series.path,
        "ndicom": registration.ndicom,
        "PatientName": _optional(series.patient_name),
        "PatientBirthDate": _birth_date(series.patient_birth_date),
        "PatientAge": _age(series.patient_age),
        "PatientSex": series.patient_sex if series.patient_sex in _SEXES else None,
        "AccessionNumber": _optional(series.accession_number),
        "Modality": _optional(series.modality),
        "ProtocolName": _optional(series.protocol_name),
        "StudyDescription": _optional(series.study_description),
        "SeriesDescription": _optional(series.series_description),
    }


def _optional(text: str | None) -> str | None:
    return text if text is not None and "\0" not in text and text.strip() else None


def _birth_date(text: str | None) -> str | None:
    """Return the date unchanged, or None if CUBE's DateField would not accept it.

    It accepts existing dates in the forms YYYYMMDD and YYYY-MM-DD.
    """
    match = _DATE.fullmatch(text or "")
    if match is None:
        return None
    try:
        date(int(match[1]), int(match[3]), int(match[4]))
    except ValueError:
        return None
    return text


def _age(days: int | None) -> int | None:
    return days if days is not None and abs(days) <= _MAX_INTEGER else None
