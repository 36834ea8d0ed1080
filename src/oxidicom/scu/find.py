"""Makes one count query: how many instances a PACS has of a series.

It is a Study Root C-FIND at level SERIES (PS3.4 C.4.1) over `scu.association`; pydicom encodes and
decodes the identifiers.
"""

from __future__ import annotations

import logging
import re
from io import BytesIO
from typing import Any, Final

from pydicom import config
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from oxidicom.constants import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    STUDY_ROOT_FIND,
)
from oxidicom.logevents import describe
from oxidicom.scu.association import Association, Match
from oxidicom.scu.connection import Limits, Peer
from oxidicom.scu.count_query import COUNT_QUERY_LIMIT_S, CountAnswer, CountQuery
from oxidicom.scu.errors import Fault, ScuError
from oxidicom.wire.requestor import Context, is_pending, status_text

MAX_MATCHES: Final = 1000
"""Greatest number of matches that are read. There should be one; a PACS that ignores the keys of
the query may send all its series."""

MAX_RECEIVE_BYTES: Final = 32 * 1024 * 1024
"""Greatest number of bytes received in one association. A match has a few hundred."""

_SUCCESS: Final = 0x0000

_QUERY_RETRIEVE_LEVEL: Final = 0x00080052
_STUDY_INSTANCE_UID: Final = 0x0020000D
_SERIES_INSTANCE_UID: Final = 0x0020000E
_NUMBER_OF_SERIES_RELATED_INSTANCES: Final = 0x00201209

_FIND_CONTEXT: Final = Context(
    STUDY_ROOT_FIND, (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)
)

_COUNT: Final = re.compile(rb"\+?[0-9]{1,12}")
"""Pattern of an integer string (PS3.5 table 6.2-1) that is not negative."""

# pydicom's log messages may quote values of an identifier, which are patient data.
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)


def find_count(query: CountQuery, within: float = COUNT_QUERY_LIMIT_S) -> CountAnswer:
    """Make a count query that takes at most `within` seconds, plus the time to resolve the name.

    Raises nothing: an error is part of the answer.
    """
    address = query.address
    peer = Peer(
        address.host, address.port, address.ae_title, query.calling_ae_title, timeout=within
    )
    matches = _Matches(query.series_instance_uid)
    error = None
    try:
        with Association(peer, (_FIND_CONTEXT,), Limits(within, MAX_RECEIVE_BYTES)) as association:
            implicit = association.transfer_syntax(_FIND_CONTEXT) == IMPLICIT_VR_LITTLE_ENDIAN
            for match in association.find(_FIND_CONTEXT, _identifier(query, implicit)):
                matches.add(match, implicit)
    except ScuError as failure:
        error = str(failure)
    except Exception as failure:
        error = describe(failure)
    return CountAnswer(matches.expected, matches.status, error or matches.error())


class _Matches:
    """Collects the count from the responses to one query."""

    def __init__(self, series_instance_uid: str) -> None:
        self._series_instance_uid = series_instance_uid.encode(errors="replace")
        self._matches = 0
        self.expected: int | None = None
        """The count; None until a match has given it."""
        self.status: int | None = None
        """Status of the last response; None before the first one."""

    def add(self, match: Match, implicit: bool) -> None:
        """Take status and count from a response. Raises ScuError after MAX_MATCHES matches."""
        self.status = match.response.status
        if not is_pending(self.status):
            return
        self._matches += 1
        if self._matches > MAX_MATCHES:
            raise ScuError(Fault.PROTOCOL, f"more than {MAX_MATCHES} matches")
        if self.expected is None and match.identifier is not None:
            found = _decoded(match.identifier, implicit)
            count = _raw_value(found, _NUMBER_OF_SERIES_RELATED_INSTANCES)
            is_wanted = _raw_value(found, _SERIES_INSTANCE_UID) == self._series_instance_uid
            if is_wanted and _COUNT.fullmatch(count):
                self.expected = int(count)

    def error(self) -> str | None:
        """Return why a query whose final response has arrived failed or gave no count.

        Returns None if it succeeded and gave a count.
        """
        if self.status != _SUCCESS:
            assert self.status is not None
            return f"status {status_text(self.status)}"
        if self.expected is None:
            return "no match has a count" if self._matches else "no match"
        return None


def _identifier(query: CountQuery, implicit: bool) -> bytes:
    """Return the encoded identifier with the keys of a query, in little endian."""
    identifier = Dataset()
    for tag, vr, value in (
        (_QUERY_RETRIEVE_LEVEL, "CS", "SERIES"),
        (_STUDY_INSTANCE_UID, "UI", query.study_instance_uid),
        (_SERIES_INSTANCE_UID, "UI", query.series_instance_uid),
        (_NUMBER_OF_SERIES_RELATED_INSTANCES, "IS", None),
    ):
        # pydicom must not reject an invalid UID: the PACS has the series under the same one.
        identifier.add(DataElement(tag, vr, value, validation_mode=config.IGNORE))
    buffer = DicomBytesIO()
    buffer.is_implicit_VR = implicit
    buffer.is_little_endian = True
    write_dataset(buffer, identifier)
    encoded: bytes = buffer.getvalue()
    return encoded


def _decoded(identifier: bytes, implicit: bool) -> Dataset:
    """Return the decoded identifier, or an empty data set if it is malformed."""
    try:
        return read_dataset(BytesIO(identifier), implicit, True)
    except Exception:  # pydicom raises many types of errors
        return Dataset()


def _raw_value(found: Dataset, tag: int) -> bytes:
    """Return the bytes of a value without padding, or empty bytes if the element is missing.

    The value is not decoded, because pydicom would raise or warn if it were invalid.
    """
    element: Any = found.get_item(tag) if tag in found else None
    value = None if element is None else element.value
    return value.strip(b" \0") if isinstance(value, bytes) else b""
