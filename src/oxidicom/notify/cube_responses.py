"""The meaning of CUBE's response to a registration over HTTP (decision 41)."""

from __future__ import annotations

import email.utils
import json
import re
from enum import Enum
from typing import Final, NamedTuple

MAX_RESPONSE_BYTES: Final = 64 * 1024
"""Bytes of a response that are read; the explanation of a refusal is shorter."""

MAX_RETRY_AFTER_S: Final = 60.0
"""The greatest Retry-After that is respected, in seconds."""

_TEMPORARY_STATUSES: Final = frozenset((401, 403, 408, 409, 429))
"""Client errors that may pass with time or by an action of the operator."""

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
"""Names of fields that may be repeated from a response; nothing else of it is."""


class CubeVerdict(Enum):
    """What to do after a response: nothing more, try again, or give up."""

    DONE = "done"
    AGAIN = "again"
    REFUSED = "refused"


class CubeResponse(NamedTuple):
    """A response of CUBE, or the reason why there was none."""

    verdict: CubeVerdict
    reason: str = ""
    """A text for an operator; of the response's body it holds the names of fields only."""
    retry_after: float | None = None
    """Seconds to wait, as the server asks."""


def judge(status: int, body: bytes, retry_after: str | None, now: float) -> CubeResponse:
    """Return the meaning of a response.

    `body` is the beginning of the response's body; `now` is in seconds since the epoch.
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
    """Return the seconds of a Retry-After header (RFC 9110 10.2.3), at most MAX_RETRY_AFTER_S.

    The header holds seconds or a date. `now` is in seconds since the epoch.
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
