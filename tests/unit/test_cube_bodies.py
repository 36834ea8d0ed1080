"""Bodies of requests to CUBE: fields, their order, what is left out (decisions 34, 40, 42)."""

from __future__ import annotations

import msgspec
import pytest

from oxidicom.notify.cube_bodies import (
    instance_body,
    metadata_body,
    metadata_folder,
    series_body,
)
from oxidicom.notify.cube_fields import fit
from oxidicom.ports import Registration, SeriesInfo
from oxidicom.ulid import new_ulid, uuid_of

FOLDER = "SERVICES/PACS/PACS1/P1-Doe-19800102/Chest-ACC1-20240131/00003-Lung-abcdef0"


def series(**changes: object) -> SeriesInfo:
    whole = SeriesInfo(
        calling_ae_title="PACS 1",
        pacs_name="PACS1",
        path=FOLDER,
        patient_id="P1",
        study_date="2024-01-31",
        study_instance_uid="1.2",
        series_instance_uid="1.2.3",
        patient_name="Doe^Jane",
        patient_birth_date="19800102",
        patient_age=16071,
        patient_sex="F",
        accession_number="ACC1",
        modality="CT",
        protocol_name="Routine",
        study_description="Chest",
        series_description="Lung",
    )
    return msgspec.structs.replace(whole, **changes)


def test_the_fields_of_an_instance_have_the_order_of_the_first_generation() -> None:
    body = instance_body(Registration(series(), 3), "0001-1.1.dcm")
    assert list(body.items()) == [
        ("path", f"{FOLDER}/0001-1.1.dcm"),
        ("PatientID", "P1"),
        ("StudyDate", "2024-01-31"),
        ("StudyInstanceUID", "1.2"),
        ("SeriesInstanceUID", "1.2.3"),
        ("pacs_name", "PACS1"),
        ("PatientName", "Doe^Jane"),
        ("PatientBirthDate", "19800102"),
        ("PatientAge", 16071),
        ("PatientSex", "F"),
        ("AccessionNumber", "ACC1"),
        ("Modality", "CT"),
        ("ProtocolName", "Routine"),
        ("StudyDescription", "Chest"),
        ("SeriesDescription", "Lung"),
    ]


def test_absent_blank_and_illegal_fields_are_left_out() -> None:
    bare = series(
        patient_name=None,
        patient_birth_date="19809999",
        patient_age=None,
        patient_sex="X",
        accession_number="",
        modality=" ",
        protocol_name="a\0b",
        study_description=None,
        series_description="Lung",
    )
    body = instance_body(Registration(bare, 1), "0001-1.1.dcm")
    assert list(body) == [
        *("path", "PatientID", "StudyDate", "StudyInstanceUID", "SeriesInstanceUID", "pacs_name"),
        "SeriesDescription",
    ]
    assert list(series_body(Registration(bare, 1)))[5:] == ["path", "ndicom", "SeriesDescription"]


def test_an_age_of_zero_days_is_sent() -> None:
    assert instance_body(Registration(series(patient_age=0), 1), "a.dcm")["PatientAge"] == 0


def test_a_series_has_the_fields_of_the_celery_task() -> None:
    assert list(series_body(Registration(series(), 3)).items()) == [
        ("PatientID", "P1"),
        ("StudyDate", "2024-01-31"),
        ("StudyInstanceUID", "1.2"),
        ("SeriesInstanceUID", "1.2.3"),
        ("pacs_name", "PACS1"),
        ("path", FOLDER),
        ("ndicom", 3),
        ("PatientName", "Doe^Jane"),
        ("PatientBirthDate", "19800102"),
        ("PatientAge", 16071),
        ("PatientSex", "F"),
        ("AccessionNumber", "ACC1"),
        ("Modality", "CT"),
        ("ProtocolName", "Routine"),
        ("StudyDescription", "Chest"),
        ("SeriesDescription", "Lung"),
    ]


def test_custom_metadata_names_the_series_and_nothing_else() -> None:
    folder = metadata_folder(series(), "01890a5d-ac96-774b-bcce-b302099a8057")
    assert folder == (
        f"SERVICES/PACS/org.fnndsc.oxidicom/{FOLDER}/01890a5d-ac96-774b-bcce-b302099a8057"
    )
    body = metadata_body(Registration(series(), 3), f"{folder}/K=5", "K", "5")
    assert list(body.items()) == [
        ("path", f"{folder}/K=5"),
        ("PatientID", "P1"),
        ("StudyDate", "2024-01-31"),
        ("StudyInstanceUID", "1.2"),
        ("SeriesInstanceUID", "1.2.3"),
        ("pacs_name", "org.fnndsc.oxidicom"),
        ("ProtocolName", "K"),
        ("SeriesDescription", "5"),
    ]


def test_fitting_a_registration_keeps_its_counts() -> None:
    registration = Registration(
        series(patient_name="x" * 999), 3, 5, 7, "01ARZ3NDEKTSV4RRFFQ69G5FAV"
    )
    fitted = fit(registration)
    assert len(fitted.series.patient_name or "") == 150
    assert (fitted.ndicom, fitted.attempted, fitted.expected) == (3, 5, 7)
    assert fitted.association_id == "01ARZ3NDEKTSV4RRFFQ69G5FAV"


def test_a_ulid_is_a_uuid_of_the_same_bits() -> None:
    # https://github.com/ulid/spec: 48 bits of time, 80 of randomness
    assert uuid_of("7ZZZZZZZZZZZZZZZZZZZZZZZZZ") == "ffffffff-ffff-ffff-ffff-ffffffffffff"
    assert uuid_of("01ARZ3NDEKTSV4RRFFQ69G5FAV") == "01563e3a-b5d3-d676-4c61-efb99302bd5b"
    assert uuid_of(new_ulid(1_700_000_000_000_000_000)).startswith("018bcfe5-6800-")


@pytest.mark.parametrize("text", ["", "A", "81ARZ3NDEKTSV4RRFFQ69G5FAV", "U" * 26])
def test_text_that_is_not_a_ulid_raises(text: str) -> None:
    with pytest.raises(ValueError, match=r"ULID|UUID|substring|128|range|int"):
        uuid_of(text)
