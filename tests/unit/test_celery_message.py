"""The Celery message compared with the reference's, and CUBE's limits (decisions 33, 34)."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st

from oxidicom.notify.celery_message import TASK_NAME, encode
from oxidicom.notify.cube_fields import cube_fields
from tests.support.registrations import FIELDS, VECTOR, registration

TASK_ID = "3b241101-e2bb-4255-8caf-4136c566a962"


def test_the_body_is_that_of_the_reference() -> None:
    message = encode(registration(), "main2", TASK_ID)
    expected = json.dumps(VECTOR["body"], separators=(",", ":"), ensure_ascii=False)
    assert message.body == expected.encode()


def test_the_properties_are_those_of_the_reference() -> None:
    message = encode(registration(), "main2", TASK_ID)
    expected = VECTOR["amqp"]["properties"] | {"correlation_id": TASK_ID, "routing_key": "main2"}
    assert message.properties == expected


def test_the_headers_are_those_of_the_reference_and_of_celery() -> None:
    headers = encode(registration(), "main2", TASK_ID, "gen7@here").headers
    assert (
        headers.items()
        >= {
            **VECTOR["amqp"]["headers"],
            "id": TASK_ID,
            "origin": "gen7@here",
        }.items()
    )
    own = Celery().amqp.as_task_v2(TASK_ID, TASK_NAME, (), {"x": 1}, origin="gen7@here").headers
    common = headers.keys() - {"kwargsrepr"}
    assert common <= own.keys()
    assert {name: headers[name] for name in common} == {name: own[name] for name in common}


def test_the_trace_context_is_a_header_and_changes_nothing_else() -> None:
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    traced = msgspec.structs.replace(registration(), traceparent=traceparent)
    with_trace = encode(traced, "main2", TASK_ID, "gen7@here")
    without = encode(registration(), "main2", TASK_ID, "gen7@here")
    assert with_trace.headers == without.headers | {"traceparent": traceparent}
    assert with_trace._replace(headers={}) == without._replace(headers={})


def test_what_workers_log_holds_no_patient_data() -> None:
    headers = encode(registration(), "main2", TASK_ID).headers
    uid = FIELDS["SeriesInstanceUID"]
    assert headers["kwargsrepr"] == (
        f"{{'pacs_name': 'OXITESTORTHANC', 'SeriesInstanceUID': '{uid}', 'ndicom': 192}}"
    )
    assert headers["argsrepr"] == "()"


def test_absent_optional_fields_are_null_and_keep_their_place() -> None:
    fields = cube_fields(
        registration(
            patient_name=None,
            patient_birth_date=None,
            patient_age=None,
            patient_sex=None,
            accession_number=None,
            modality=None,
            protocol_name=None,
            study_description=None,
            series_description=None,
        )
    )
    assert list(fields) == list(FIELDS)
    assert [keyword for keyword, value in fields.items() if value is None] == list(FIELDS)[7:]


OPTIONAL_TEXTS = {
    "patient_name": ("PatientName", 150),
    "accession_number": ("AccessionNumber", 100),
    "modality": ("Modality", 15),
    "protocol_name": ("ProtocolName", 64),
    "study_description": ("StudyDescription", 400),
    "series_description": ("SeriesDescription", 400),
}


@pytest.mark.parametrize(
    ("name", "keyword", "limit"), [(n, *kl) for n, kl in OPTIONAL_TEXTS.items()]
)
def test_optional_text_is_cut_and_null_if_blank(name: str, keyword: str, limit: int) -> None:
    def sent(text: str) -> Any:
        return cube_fields(registration(**{name: text}))[keyword]

    assert sent("x") == "x"
    assert sent("") is None
    assert sent("   ") is None
    assert sent("a\x00b") is None
    assert sent("é" * limit) == "é" * limit
    assert sent("é" * (limit + 1)) == "é" * limit


@pytest.mark.parametrize(
    ("name", "keyword"),
    [
        ("patient_id", "PatientID"),
        ("study_instance_uid", "StudyInstanceUID"),
        ("series_instance_uid", "SeriesInstanceUID"),
    ],
)
def test_required_text_is_cut_but_never_null(name: str, keyword: str) -> None:
    assert cube_fields(registration(**{name: ""}))[keyword] == ""
    assert cube_fields(registration(**{name: "1" * 101}))[keyword] == "1" * 100


@pytest.mark.parametrize("text", ["20090701", "2009-07-01", "20240229", "00010101"])
def test_birth_dates_that_cube_reads_stay_as_received(text: str) -> None:
    assert cube_fields(registration(patient_birth_date=text))["PatientBirthDate"] == text


@pytest.mark.parametrize(
    "text",
    ["", " ", "2009", "20091301", "20230229", "2009.07.01", "2009-0701", "20090701x", "٢٠٠٩٠٧٠١"],
)
def test_invalid_birth_dates_are_null(text: str) -> None:
    assert cube_fields(registration(patient_birth_date=text))["PatientBirthDate"] is None


@pytest.mark.parametrize(
    ("sex", "expected"),
    [("M", "M"), ("F", "F"), ("O", "O"), ("", None), ("m", None), ("MF", None), ("U", None)],
)
def test_a_patient_sex_that_cube_does_not_accept_is_null(sex: str, expected: str | None) -> None:
    assert cube_fields(registration(patient_sex=sex))["PatientSex"] == expected


@pytest.mark.parametrize(("age", "expected"), [(0, 0), (-3, -3), (2**31, None), (None, None)])
def test_a_patient_age_beyond_the_column_type_is_null(
    age: int | None, expected: int | None
) -> None:
    assert cube_fields(registration(patient_age=age))["PatientAge"] == expected


@given(st.text(), st.text(st.characters(categories=["Cs", "L"])), st.integers(0, 2**31))
def test_every_message_is_json_that_celery_reads(name: str, odd: str, ndicom: int) -> None:
    message = encode(registration(ndicom, patient_name=name, patient_id=odd), "main2", TASK_ID)
    args, kwargs, embed = json.loads(message.body)
    assert (args, kwargs["ndicom"], set(embed.values())) == ([], ndicom, {None})
    assert list(kwargs) == list(FIELDS)
