"""Interprets CUBE's response to a registration over HTTP (decision 41)."""

from __future__ import annotations

import email.utils
import json
import re
from enum import Enum
from typing import Final, NamedTuple

MAX_RESPONSE_BYTES: Final = 64 * 1024
"""Bytes of a response body that are read; explanations of refusals are shorter."""

MAX_RETRY_AFTER_S: Final = 60.0
"""Longest delay in seconds; a longer one in a Retry-After header is cut to it."""

_TEMPORARY_STATUSES: Final = frozenset((401, 403, 408, 409, 429))
"""Client error statuses after which a repeated request may succeed."""

_DUPLICATE: Final = re.compile(
    rb"already\b[^{}\[\]]{0,40}?\b(?:registered|exists?)"
    rb"|\b(?:registered|exists?)\b[^{}\[\]]{0,40}?\balready",
    re.IGNORECASE,
)
"""Matches CUBE's response to a file or series that is registered already. CUBE of the first
generation: "File has already been registered."; today's: "A DICOM series with SeriesInstanceUID=…
already registered for pacs …"."""

_FIELDS: Final = frozenset(
    (
        *("path", "ndicom", "pacs_name", "non_field_errors", "detail"),
        *("PatientID", "PatientName", "PatientBirthDate", "PatientAge", "PatientSex"),
        *("StudyDate", "StudyInstanceUID", "StudyDescription", "AccessionNumber"),
        *("SeriesInstanceUID", "SeriesDescription", "Modality", "ProtocolName"),
    )
)
"""Field names that may be copied from a response into a reason; nothing else is copied, because it
may contain patient data."""


class CubeVerdict(Enum):
    """What follows from a response: the registration is done, may be repeated, or is refused."""

    DONE = "done"
    AGAIN = "again"
    REFUSED = "refused"


class CubeResponse(NamedTuple):
    """The verdict on one request to CUBE, whether there was a response or not."""

    verdict: CubeVerdict
    reason: str = ""
    """A text for an operator, which may be empty after a success. It repeats nothing of the
    response's body except names of fields."""
    retry_after: float | None = None
    """Seconds to wait before the next request, from the Retry-After header; None without one."""


def judge(status: int, body: bytes, retry_after: str | None, now: float) -> CubeResponse:
    """Return the verdict on a response.

    `status` is the HTTP status, `body` the beginning of the response's body, `retry_after` the
    value of the Retry-After header or None, `now` the time in seconds since the epoch.
    """
    if 200 <= status < 300:
        return CubeResponse(CubeVerdict.DONE)
    if status in (400, 409) and _DUPLICATE.search(body):
        return CubeResponse(CubeVerdict.DONE, "already registered")
    reason = f"CUBE answers {status}{_advice(status)}"
    if 400 <= status < 500 and status not in _TEMPORARY_STATUSES:
        return CubeResponse(CubeVerdict.REFUSED, reason + _fields_at_fault(body))
    return CubeResponse(CubeVerdict.AGAIN, reason, seconds_of(retry_after, now))


def _advice(status: int) -> str:
    if status == 401:
        return ": correct CHRIS_USERNAME and CHRIS_PASSWORD"
    if status == 403:
        return ": the user CHRIS_USERNAME lacks the permission to register in CUBE"
    if 300 <= status < 400:
        return ", a redirection, which is not followed: correct CHRIS_URL"
    if status in (404, 405):
        return ": correct CHRIS_URL or OXIDICOM_HTTP_REGISTER, CUBE has no such resource"
    return ""


def _fields_at_fault(body: bytes) -> str:
    try:
        faults = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(faults, dict):
        return ""
    names = sorted(_FIELDS.intersection(faults))
    return f", at fault: {', '.join(names)}" if names else ""


def seconds_of(retry_after: str | None, now: float) -> float | None:
    """Return the delay that a Retry-After header asks for, in seconds (RFC 9110 10.2.3).

    The header contains seconds or a date. The result is between 0.0 and MAX_RETRY_AFTER_S; None if
    there is no header or it is invalid. `now` is in seconds since the epoch.
    """
    if retry_after is None:
        return None
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        seconds = float(text[:9])
    else:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - now
        except (ValueError, OverflowError):
            return None
    return min(max(0.0, seconds), MAX_RETRY_AFTER_S)
