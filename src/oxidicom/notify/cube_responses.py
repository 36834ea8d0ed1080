"""What CUBE's answer to a registration means (decision 41)."""

from __future__ import annotations

import email.utils
import json
import re
from enum import Enum
from typing import Final, NamedTuple

BODY_LIMIT: Final = 64 * 1024
"""Bytes of an answer that are read; what explains a refusal is shorter."""

LONGEST_RETRY_AFTER: Final = 60.0
"""Seconds for which a server may put us off."""

_PASSING: Final = frozenset((401, 403, 408, 409, 429))
"""Of the client errors: time, or the operator, may mend these."""

_DUPLICATE: Final = re.compile(
    rb"already\b[^{}\[\]]{0,40}?\b(?:registered|exists?)"
    rb"|\b(?:registered|exists?)\b[^{}\[\]]{0,40}?\balready",
    re.IGNORECASE,
)
"""The first generation's CUBE: "File has already been registered."; today's: "A DICOM series with
SeriesInstanceUID=… already registered for pacs …"."""

_FIELDS: Final = frozenset(
    (
        *("path", "ndicom", "pacs_name", "non_field_errors", "detail"),
        *("PatientID", "PatientName", "PatientBirthDate", "PatientAge", "PatientSex"),
        *("StudyDate", "StudyInstanceUID", "StudyDescription", "AccessionNumber"),
        *("SeriesInstanceUID", "SeriesDescription", "Modality", "ProtocolName"),
    )
)
"""What CUBE may call a fault by; nothing else that it says is repeated."""


class CubeVerdict(Enum):
    DONE = "done"
    AGAIN = "again"
    REFUSED = "refused"


class CubeResponse(NamedTuple):
    verdict: CubeVerdict
    reason: str = ""
    """For a person, without anything of the body but the names of fields."""
    retry_after: float | None = None
    """Seconds that the server asks us to wait."""


def judge(status: int, body: bytes, retry_after: str | None, now: float) -> CubeResponse:
    """`body` may be its beginning; `now` is seconds since the epoch."""
    if 200 <= status < 300:
        return CubeResponse(CubeVerdict.DONE)
    if status in (400, 409) and _DUPLICATE.search(body):
        return CubeResponse(CubeVerdict.DONE, "already registered")
    reason = f"CUBE answers {status}{_advice(status)}"
    if 400 <= status < 500 and status not in _PASSING:
        return CubeResponse(CubeVerdict.REFUSED, reason + _fields_at_fault(body))
    return CubeResponse(CubeVerdict.AGAIN, reason, seconds_of(retry_after, now))


def _advice(status: int) -> str:
    if status == 401:
        return ": correct CHRIS_USERNAME and CHRIS_PASSWORD"
    if status == 403:
        return ": the user CHRIS_USERNAME may not register, see to its permissions in CUBE"
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
    """Retry-After (RFC 9110 10.2.3), in seconds or as a date; at most LONGEST_RETRY_AFTER."""
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
    return min(max(0.0, seconds), LONGEST_RETRY_AFTER)
