"""Asks a PACS how many instances it has of a series.

Study Root C-FIND at level SERIES (PS3.4 C.4.1) over an association of our own (`scu.association`);
pydicom encodes and decodes the identifiers.
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
"""Matches read of a PACS that ignores which series it was asked for. There should be one."""

MAX_RECEIVE_BYTES: Final = 32 * 1024 * 1024
"""Bytes received in one association at most. A match has some hundred bytes."""

_SUCCESS: Final = 0x0000

_QUERY_RETRIEVE_LEVEL: Final = 0x00080052
_STUDY_INSTANCE_UID: Final = 0x0020000D
_SERIES_INSTANCE_UID: Final = 0x0020000E
_NUMBER_OF_SERIES_RELATED_INSTANCES: Final = 0x00201209

_FIND_CONTEXT: Final = Context(
    STUDY_ROOT_FIND, (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)
)

_COUNT: Final = re.compile(rb"\+?[0-9]{1,12}")
"""An integer string (PS3.5 table 6.2-1) that is not negative."""

# pydicom's messages may quote values of an identifier: patient data.
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)


def find_count(query: CountQuery, within: float = COUNT_QUERY_LIMIT_S) -> CountAnswer:
    """Ask for a count, for at most `within` seconds in all. Never raises."""
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
    """The count that the responses to one query have given so far."""

    def __init__(self, series_instance_uid: str) -> None:
        self._series_instance_uid = series_instance_uid.encode(errors="replace")
        self._matches = 0
        self.expected: int | None = None
        self.status: int | None = None
        """The last response's."""

    def add(self, match: Match, implicit: bool) -> None:
        """Take the count of a match. Raises ScuError after MAX_MATCHES of them."""
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
        """Return why a query that ended as it should gave no count, or None if it gave one."""
        if self.status != _SUCCESS:
            assert self.status is not None
            return f"status {status_text(self.status)}"
        if self.expected is None:
            return "no match has a count" if self._matches else "no match"
        return None


def _identifier(query: CountQuery, implicit: bool) -> bytes:
    """Encode the keys of a query, little endian."""
    identifier = Dataset()
    for tag, vr, value in (
        (_QUERY_RETRIEVE_LEVEL, "CS", "SERIES"),
        (_STUDY_INSTANCE_UID, "UI", query.study_instance_uid),
        (_SERIES_INSTANCE_UID, "UI", query.series_instance_uid),
        (_NUMBER_OF_SERIES_RELATED_INSTANCES, "IS", None),
    ):
        # The PACS knows a UID as it was received, even if it is not a legal one.
        identifier.add(DataElement(tag, vr, value, validation_mode=config.IGNORE))
    buffer = DicomBytesIO()
    buffer.is_implicit_VR = implicit
    buffer.is_little_endian = True
    write_dataset(buffer, identifier)
    encoded: bytes = buffer.getvalue()
    return encoded


def _decoded(identifier: bytes, implicit: bool) -> Dataset:
    """Decode an identifier; one that is malformed gives an empty data set."""
    try:
        return read_dataset(BytesIO(identifier), implicit, True)
    except Exception:  # pydicom raises many kinds
        return Dataset()


def _raw_value(found: Dataset, tag: int) -> bytes:
    """Return a value as sent, without padding: pydicom would raise for, or warn of, a bad one."""
    element: Any = found.get_item(tag) if tag in found else None
    value = None if element is None else element.value
    return value.strip(b" \0") if isinstance(value, bytes) else b""
