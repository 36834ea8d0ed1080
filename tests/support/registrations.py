"""Registrations for tests: the vectors' own, and many that differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from oxidicom.ports import Registration, SeriesInfo

VECTORS = json.loads((Path(__file__).parent / "vectors.json").read_text())
VECTOR: dict[str, Any] = VECTORS["celery"]
FIELDS: dict[str, Any] = VECTOR["body"][1]

_SERIES = SeriesInfo(
    calling_ae_title=FIELDS["pacs_name"],
    pacs_name=FIELDS["pacs_name"],
    path=FIELDS["path"],
    patient_id=FIELDS["PatientID"],
    study_date=FIELDS["StudyDate"],
    study_instance_uid=FIELDS["StudyInstanceUID"],
    series_instance_uid=FIELDS["SeriesInstanceUID"],
    patient_name=FIELDS["PatientName"],
    patient_birth_date=FIELDS["PatientBirthDate"],
    patient_age=FIELDS["PatientAge"],
    patient_sex=FIELDS["PatientSex"],
    accession_number=FIELDS["AccessionNumber"],
    modality=FIELDS["Modality"],
    protocol_name=FIELDS["ProtocolName"],
    study_description=FIELDS["StudyDescription"],
    series_description=FIELDS["SeriesDescription"],
)


NDICOM: int = FIELDS["ndicom"]


def registration(ndicom: int = NDICOM, /, **changes: Any) -> Registration:
    """The vector's, with `changes` to its series."""
    return Registration(msgspec.structs.replace(_SERIES, **changes), ndicom)


def numbered(number: int, ndicom: int = 1) -> Registration:
    """Return a registration of a series of its own."""
    return registration(ndicom, series_instance_uid=f"1.2.826.{number}")
