"""How many instances a PACS has of a series: Study Root C-FIND at level SERIES (PS3.4 C.4.1)."""

from __future__ import annotations

import re
from typing import Any, Final

from pydicom import config
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from oxidicom.logevents import describe
from oxidicom.scu.count_query import LIMIT, CountAnswer, CountQuery
from oxidicom.scu.find_association import NoAnswer, Requested, associated

STUDY_ROOT_FIND: Final = "1.2.840.10008.5.1.4.1.2.2.1"

MAX_MATCHES: Final = 1000
"""Read of one PACS that ignores what was asked for. There should be one."""

_SUCCESS: Final = 0x0000
_PENDING: Final = (0xFF00, 0xFF01)

_QUERY_RETRIEVE_LEVEL: Final = 0x00080052
_STUDY_INSTANCE_UID: Final = 0x0020000D
_SERIES_INSTANCE_UID: Final = 0x0020000E
_NUMBER_OF_SERIES_RELATED_INSTANCES: Final = 0x00201209

_COUNT: Final = re.compile(rb"\+?[0-9]{1,12}")
"""An integer string (PS3.5 table 6.2-1) that is no less than 0."""


def find_count(question: CountQuery, within: float = LIMIT) -> CountAnswer:
    """Ask, for `within` seconds at most; never raises."""
    finding = _Finding(question.series_instance_uid)
    error = None
    try:
        with associated(
            question.address, question.calling_ae_title, STUDY_ROOT_FIND, within
        ) as association:
            finding.read(association, _identifier(question))
    except NoAnswer as no_answer:
        error = str(no_answer)
    except Exception as failure:
        error = describe(failure)
    return CountAnswer(finding.expected, finding.status, error or finding.shortcoming())


class _Finding:
    """What the responses say, one after the other."""

    def __init__(self, series_instance_uid: str) -> None:
        self._wanted = series_instance_uid.encode(errors="replace")
        self.matches = 0
        self.expected: int | None = None
        self.status: int | None = None

    def read(self, association: Requested, identifier: Dataset) -> None:
        association.wait_no_longer()
        for response, match in association.pynetdicom.send_c_find(identifier, STUDY_ROOT_FIND):
            self.status = response.get("Status", self.status)
            if "Status" not in response:
                raise association.lost()
            if self.status in _PENDING:
                self._take(match)
            association.wait_no_longer()

    def shortcoming(self) -> str | None:
        """Of a PACS that has said all it had to say."""
        if self.status != _SUCCESS:
            return f"status {self.status:04X}H"
        if self.expected is None:
            return "no match has a count" if self.matches else "no match"
        return None

    def _take(self, match: Dataset | None) -> None:
        self.matches += 1
        if self.matches > MAX_MATCHES:
            raise NoAnswer(f"more than {MAX_MATCHES} matches")
        if self.expected is None and match is not None:
            count = _raw(match, _NUMBER_OF_SERIES_RELATED_INSTANCES)
            if _raw(match, _SERIES_INSTANCE_UID) == self._wanted and _COUNT.fullmatch(count):
                self.expected = int(count)


def _identifier(question: CountQuery) -> Dataset:
    identifier = Dataset()
    for tag, vr, value in (
        (_QUERY_RETRIEVE_LEVEL, "CS", "SERIES"),
        (_STUDY_INSTANCE_UID, "UI", question.study_instance_uid),
        (_SERIES_INSTANCE_UID, "UI", question.series_instance_uid),
        (_NUMBER_OF_SERIES_RELATED_INSTANCES, "IS", None),
    ):
        # A UID as it was received is what the PACS knows, be it legal or not.
        identifier.add(DataElement(tag, vr, value, validation_mode=config.IGNORE))
    return identifier


def _raw(match: Dataset, tag: int) -> bytes:
    """As sent, without padding: pydicom would raise for, or warn of, what is no value."""
    element: Any = match.get_item(tag) if tag in match else None
    value = None if element is None else element.value
    return value.strip(b" \0") if isinstance(value, bytes) else b""
