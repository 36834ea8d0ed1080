"""Paths, file names and refusals, compared with the reference (decisions 24–27)."""

from __future__ import annotations

import json
import re
import timeit
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.datadict import dictionary_VR, tag_for_keyword

from oxidicom.constants import Encoding
from oxidicom.errors import InstanceError
from oxidicom.store import identity
from oxidicom.store.identity import read_names, read_series, series_uid_of
from oxidicom.store.paths import check_path, instance_file_name, pacs_name_of, series_folder
from oxidicom.store.readers import Reader, reader_for
from oxidicom.store.seahash import short_hash
from tests.unit.test_dataset_walk import element, pixels

VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "support/vectors.json").read_text()
)["vectors"]

Elements = Mapping[str, str | bytes | None]

REQUIRED = {
    "SOPClassUID": "1.2.840.10008.5.1.4.1.1.4",
    "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.1",
    "SeriesInstanceUID": "1.2.826.0.1.3680043.8.498.2",
    "SOPInstanceUID": "1.2.826.0.1.3680043.8.498.3",
    "PatientID": "P1",
    "StudyDate": "20240131",
}

COLUMNS = {
    "PatientID": "patient_id",
    "StudyDate": "study_date",
    "StudyInstanceUID": "study_instance_uid",
    "SeriesInstanceUID": "series_instance_uid",
    "path": "path",
    "PatientName": "patient_name",
    "PatientBirthDate": "patient_birth_date",
    "PatientAge": "patient_age",
    "PatientSex": "patient_sex",
    "AccessionNumber": "accession_number",
    "Modality": "modality",
    "ProtocolName": "protocol_name",
    "StudyDescription": "study_description",
    "SeriesDescription": "series_description",
}

AMENDED: dict[str, dict[str, Any]] = {
    "numbers: slash in InstanceNumber": {"file": "01_2-1.2.826.0.1.3680043.8.498.3.dcm"},
    "numbers: traversal in SeriesNumber": {"series": ".._.._x-AX_T1-10c8594"},
    "AE title dot-dot": {"pacs_name": "_"},
    "ISO 2022 with empty first charset value": {
        "patient": "P1-Yamada_Tarou_-19800102",
        "PatientName": "Yamada^Tarou=山田^太郎",
    },
    "StudyDate with dots (old ACR-NEMA form) rejected": {"study_date": "2024-01-31"},
    "PatientID sent as UN in Explicit VR": {"patient_id": "P1"},
}
"""Test vectors of the reference whose results decisions 24 and 25 change."""


def encode(elements: Elements, encoding: Encoding, vrs: dict[str, bytes]) -> bytes:
    parts = []
    for keyword in sorted(elements, key=lambda keyword: tag_for_keyword(keyword) or 0):
        value = elements[keyword] or b""
        raw = value.encode("latin-1") if isinstance(value, str) else value
        tag = tag_for_keyword(keyword)
        assert tag is not None
        vr = vrs.get(keyword, dictionary_VR(tag).encode())
        parts.append(element(encoding, tag, vr, raw))
    return b"".join([*parts, pixels(encoding)])


def reader_of(
    elements: Elements,
    encoding: Encoding = Encoding.EXPLICIT_LE,
    **vrs: bytes,
) -> Reader:
    reader = reader_for(encoding)
    data = encode(elements, encoding, vrs)
    reader.feed(data, 0, len(data))
    reader.finish()
    assert not reader.failed
    return reader


def elements_of(vector: dict[str, Any]) -> dict[str, str | bytes | None]:
    given = vector["input"]
    elements: dict[str, str | bytes | None] = {"SOPClassUID": REQUIRED["SOPClassUID"]}
    elements |= given["elements"]
    elements |= {k: bytes.fromhex(v) for k, v in given.get("elements_raw_hex", {}).items()}
    if "SpecificCharacterSet" in given:
        elements["SpecificCharacterSet"] = given["SpecificCharacterSet"]
    return elements


ENCODINGS = [Encoding.IMPLICIT_LE, Encoding.EXPLICIT_LE, Encoding.EXPLICIT_BE]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_vectors_of_the_reference(vector: dict[str, Any], encoding: Encoding) -> None:
    elements, expected = elements_of(vector), vector["expected"]
    title = vector["input"]["calling_ae_title"].strip()
    amended = AMENDED.get(vector["name"], {})
    assert not vector.get("hazard") or amended
    vrs = {}
    if vector["name"] == "PatientID sent as UN in Explicit VR":
        elements["PatientID"] = b"P1"
        vrs["PatientID"] = b"UN"
    reader = reader_of(elements, encoding, **vrs)
    if "error" in expected and not amended:
        with pytest.raises(InstanceError) as refusal:
            read_names(reader, title)
        assert refusal.value.status == 0xC000
        # Decision 36: never the value.
        assert refusal.value.notice == re.sub(r"=Some.*", "", expected["error"])
        assert len(refusal.value.comment) <= 64
        return
    found = read_names(reader, title)
    series = found.series
    if "path" in expected:
        *root, aet, patient, study, folder, file = expected["path"].split("/")[:7]
        if "series" in amended:
            folder, file = amended["series"], "0012-1.2.826.0.1.3680043.8.498.3.dcm"
            patient, study = "P1-Doe_Jane-19800102", "MR_Brain-ACC1-20240131"
        aet = amended.get("pacs_name", aet)
        patient, file = amended.get("patient", patient), amended.get("file", file)
        assert f"{series.path}/{found.file_name}" == "/".join(
            [*root, aet, patient, study, folder, file]
        )
        assert series.pacs_name == aet
        wanted = dict(expected["celery_kwargs"])
        wanted["path"] = series.path
        wanted |= {key: value for key, value in amended.items() if key in COLUMNS}
        for keyword, column in COLUMNS.items():
            assert getattr(series, column) == wanted[keyword], keyword
    else:
        assert amended
        for column, value in amended.items():
            assert getattr(series, column) == value
    assert series.calling_ae_title == title


def test_a_date_with_dots_is_as_received_in_the_path() -> None:
    found = read_names(reader_of({**REQUIRED, "StudyDate": "2024.01.31"}), "A")
    assert found.series.path.split("/")[4].endswith("-2024.01.31")
    assert found.series.study_date == "2024-01-31"


# ---- refusals ------------------------------------------------------------------------------

ORDER = ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "PatientID", "StudyDate"]


@pytest.mark.parametrize("first", range(6))
def test_the_first_missing_element_determines_the_error(first: int) -> None:
    order = [*ORDER, "SOPClassUID"]
    kept = {k: v for k, v in REQUIRED.items() if k in order[:first]}
    with pytest.raises(InstanceError) as refusal:
        read_names(reader_of(kept), "A")
    assert refusal.value.status == 0xC000
    assert refusal.value.comment == f"Missing required tag: {order[first]}"
    assert refusal.value.notice == f"DICOM file does not have the required tag: {order[first]}"
    assert refusal.value.offending == tag_for_keyword(order[first])


def test_a_missing_uid_is_reported_before_an_invalid_date() -> None:
    elements = {**REQUIRED, "StudyDate": "secret"}
    with pytest.raises(InstanceError, match="Illegal value for tag StudyDate") as refusal:
        read_names(reader_of(elements), "A")
    assert refusal.value.offending == 0x00080020
    assert "secret" not in refusal.value.notice + refusal.value.comment
    del elements["SOPInstanceUID"]
    with pytest.raises(InstanceError, match="Missing required tag: SOPInstanceUID"):
        read_names(reader_of(elements), "A")


def test_a_required_element_that_is_not_text_is_missing() -> None:
    with pytest.raises(InstanceError, match="Missing required tag: PatientID"):
        read_names(reader_of(REQUIRED, PatientID=b"US"), "A")
    with pytest.raises(InstanceError, match="Missing required tag: SOPInstanceUID"):
        read_names(reader_of(REQUIRED, SOPInstanceUID=b"OB"), "A")


def test_the_series_uid_of_a_refused_instance() -> None:
    assert series_uid_of(reader_of({"SeriesInstanceUID": "1.2\0"}), "A") == "1.2"
    assert series_uid_of(reader_of({}), "A") is None


def test_uids_are_compared_without_padding() -> None:
    padded = {"SOPInstanceUID": b"1.2.3 \0", "SOPClassUID": b"1.2.4 \0"}
    elements: Elements = {**REQUIRED, **padded}
    found = read_names(reader_of(elements), "A")
    assert (found.sop_class_uid, found.sop_instance_uid) == ("1.2.4", "1.2.3")


def test_an_invalid_age_is_left_out() -> None:
    reader = reader_of({**REQUIRED, "PatientAge": "044"})
    assert read_names(reader, "A").series.patient_age is None
    assert read_series(reader, "A").illegal == ("PatientAge",)


# ---- what is remembered --------------------------------------------------------------------


def test_a_series_is_decoded_once() -> None:
    one, two = (read_names(reader_of({**REQUIRED, "InstanceNumber": n}), "A") for n in ("1", "2"))
    assert one.series is two.series
    assert (one.file_name[:5], two.file_name[:5]) == ("0001-", "0002-")
    assert read_names(reader_of(REQUIRED), "B").series.pacs_name == "B"


def test_the_cache_of_series_is_bounded() -> None:
    huge = reader_of({**REQUIRED, "StudyDescription": b"x" * 60_000}, Encoding.IMPLICIT_LE)
    assert read_names(huge, "A").series is not read_names(huge, "A").series
    for n in range(identity.MAX_CACHED_SERIES + 10):
        read_names(reader_of({**REQUIRED, "PatientID": str(n)}), "A")
    assert len(identity._series_names) <= identity.MAX_CACHED_SERIES


def test_a_cached_series_costs_microseconds() -> None:
    reader = reader_of({**REQUIRED, "InstanceNumber": "12"})
    read_names(reader, "A")
    best = min(timeit.repeat(lambda: read_names(reader, "A"), number=1000, repeat=5)) / 1000
    assert best < 50e-6  # measured: 4 µs


# ---- safety --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("A B", "A_B"),
        ("..", "_"),
        (".", "_"),
        ("", "_"),
        ("\0", "_"),
        ("...", "..."),
        ("a/../b", "a_.._b"),
    ],
)
def test_pacs_names(title: str, name: str) -> None:
    assert pacs_name_of(title) == name


@pytest.mark.parametrize(
    ("number", "start"),
    [
        (None, "InstanceNumber"),
        ("", "0000"),
        ("1", "0001"),
        ("+7", "0007"),
        ("-1", "00-1"),
        ("00012", "0012"),
        ("4294967295", "4294967295"),
        ("4294967296", "4294967296"),
        ("0" * 5000 + "1", "0001"),
        ("1\0", "0001"),
        ("../../x", ".._.._x"),
        ("١", "000_"),
    ],
)
def test_instance_numbers(number: str | None, start: str) -> None:
    assert instance_file_name(number, "1.2") == f"{start}-1.2.dcm"


def test_a_long_component_is_cut_and_ends_in_a_hash() -> None:
    found = read_names(
        reader_of({**REQUIRED, "StudyDescription": b"x" * 400, "SOPInstanceUID": b"1" * 400}), "A"
    )
    study = found.series.path.split("/")[4]
    assert len(study) == 255
    full = "x" * 400 + "-AccessionNumber-20240131"
    assert study == full[:246] + "-" + short_hash(full.encode(), 8)
    stem = "InstanceNumber-" + "1" * 400
    assert found.file_name == stem[:242] + "-" + short_hash(stem.encode(), 8) + ".dcm"
    assert len(found.file_name) == 255


def test_a_component_of_255_bytes_is_not_cut() -> None:
    description = "x" * (255 - len("-AccessionNumber-20240131"))
    found = read_names(reader_of({**REQUIRED, "StudyDescription": description}), "A")
    assert found.series.path.split("/")[4] == f"{description}-AccessionNumber-20240131"


def test_a_path_of_more_than_1024_characters_is_refused() -> None:
    long = ("PatientName", "StudyDescription", "SeriesDescription", "SOPInstanceUID")
    elements = {**REQUIRED, **dict.fromkeys(long, "1" * 300)}
    with pytest.raises(InstanceError, match="1024") as refusal:
        read_names(reader_of(elements), "A" * 16)
    assert refusal.value.status == 0xC000
    check_path("a" * 1000, "b" * 23)
    with pytest.raises(InstanceError):
        check_path("a" * 1000, "b" * 24)


TEXT = st.none() | st.text(max_size=300)


@given(
    st.lists(st.text(max_size=300), min_size=4, max_size=4), st.lists(TEXT, min_size=7, max_size=7)
)
def test_no_text_leads_out_of_its_component(
    required: list[str], optional: list[str | None]
) -> None:
    title, patient_id, study_date, uid = required
    folder = series_folder(
        pacs_name=pacs_name_of(title),
        patient_id=patient_id,
        patient_name=optional[0],
        patient_birth_date=optional[1],
        study_description=optional[2],
        accession_number=optional[3],
        study_date=study_date,
        series_number=optional[4],
        series_description=optional[5],
        series_instance_uid=uid,
    )
    path = f"{folder}/{instance_file_name(optional[6], uid)}"
    components = path.split("/")
    assert components[:2] == ["SERVICES", "PACS"]
    assert len(components) == 7
    for component in components[3:]:
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,255}", component)
        assert component not in (".", "..")
    assert path.endswith(".dcm")


@given(st.lists(st.binary(max_size=40), min_size=18, max_size=18), st.sampled_from(ENCODINGS))
def test_any_values_give_names_or_a_refusal(values: list[bytes], encoding: Encoding) -> None:
    keywords = [*REQUIRED, "SpecificCharacterSet", "PatientName", "SeriesNumber", "InstanceNumber"]
    reader = reader_of(dict(zip(keywords, values, strict=False)), encoding)
    try:
        found = read_names(reader, "A")
    except InstanceError as refusal:
        status = refusal.status
    else:
        status = 0
        assert found.file_name.endswith(".dcm")
    assert status in (0, 0xC000)
