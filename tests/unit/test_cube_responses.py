"""The meaning of CUBE's responses (decision 41)."""

from __future__ import annotations

import json

import pytest

from oxidicom.notify.cube_responses import CubeVerdict, judge, seconds_of
from tests.support.cube_http import DUPLICATE, DUPLICATE_SERIES

NOW = 1_700_000_000.0


def verdict(status: int, body: object = None) -> CubeVerdict:
    return judge(status, json.dumps(body).encode(), None, NOW).verdict


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_any_status_of_success_means_registered(status: int) -> None:
    assert judge(status, b"<html>\xff", None, NOW).verdict is CubeVerdict.DONE


@pytest.mark.parametrize(
    "status",
    [401, 403, 408, 409, 429, 500, 502, 503, 504, 507, 599, 301, 302, 307, 308],
)
def test_temporary_statuses_are_tried_again(status: int) -> None:
    assert verdict(status) is CubeVerdict.AGAIN


@pytest.mark.parametrize("status", [400, 404, 405, 413, 415, 422])
def test_other_client_errors_are_refusals(status: int) -> None:
    assert verdict(status, {"PatientID": ["This field may not be blank."]}) is CubeVerdict.REFUSED


@pytest.mark.parametrize(
    "body",
    [
        DUPLICATE,
        DUPLICATE_SERIES,
        {"non_field_errors": DUPLICATE_SERIES},
        {"fname": ["A file with this path ALREADY EXISTS."]},
        {"path": ["File already registered"]},
    ],
)
def test_an_existing_registration_means_registered(body: object) -> None:
    assert verdict(400, body) is CubeVerdict.DONE
    assert verdict(404, body) is CubeVerdict.REFUSED


@pytest.mark.parametrize(
    "body",
    [
        {"path": ["not already there"], "PatientID": ["no such patient exists"]},
        {"path": ["already"], "x": ["registered"]},
        {"path": ["Could not find this path."]},
    ],
)
def test_other_errors_are_not_taken_for_duplicates(body: object) -> None:
    assert verdict(400, body) is CubeVerdict.REFUSED


def test_a_refusal_names_fields_and_repeats_no_value() -> None:
    body = {"PatientSex": ['"Doe^Jane" is not a valid choice.'], "path": ["P1"], "Doe^Jane": [""]}
    reason = judge(400, json.dumps(body).encode(), None, NOW).reason
    assert reason == "CUBE answers 400, at fault: PatientSex, path"


@pytest.mark.parametrize("body", [b"", b"Doe^Jane", b"[1]", b"{", b"[" * 60_000, b"\xff"])
def test_a_refusal_of_another_form_gives_the_status_only(body: bytes) -> None:
    assert judge(400, body, None, NOW).reason == "CUBE answers 400"


def test_the_reason_names_the_setting_to_correct() -> None:
    assert "CHRIS_USERNAME and CHRIS_PASSWORD" in judge(401, b"", None, NOW).reason
    assert "CHRIS_USERNAME" in judge(403, b"", None, NOW).reason
    assert "CHRIS_URL" in judge(301, b"", None, NOW).reason
    assert "CHRIS_URL" in judge(404, b"", None, NOW).reason


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("0", 0.0),
        ("86400", 60.0),
        ("9" * 400, 60.0),
        ("Tue, 14 Nov 2023 22:13:25 GMT", 5.0),
        ("Tue, 14 Nov 2023 22:13:00 GMT", 0.0),
        ("Tue, 14 Nov 2033 22:13:00 GMT", 60.0),
        ("soon", None),
        ("-3", None),
        ("²", None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_is_limited(
    header: str | None, seconds: float | None
) -> None:
    assert seconds_of(header, NOW) == seconds
    assert judge(503, b"", header, NOW).retry_after == seconds
