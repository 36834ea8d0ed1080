"""The identity of an instance: its series, its UIDs and its file name.

The values that an instance shares with its series are decoded once for each distinct set of raw
values and then cached; only SOPInstanceUID and InstanceNumber are read for each instance.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from oxidicom import _dimse
from oxidicom.constants import DimseStatus
from oxidicom.errors import InstanceError
from oxidicom.ports import SeriesInfo
from oxidicom.store.paths import check_path, instance_file_name, pacs_name_of, series_folder
from oxidicom.store.patient_age import days_of_age
from oxidicom.store.readers import Reader
from oxidicom.store.tags import KEYWORDS, TAGS, charset_of, is_text, iso_date, text_of, vr_of

MAX_CACHED_SERIES: Final = 1024
"""Number of distinct sets of series-level values in the cache; senders interleave a few series."""

MAX_CACHED_SERIES_BYTES: Final = 8 * 1024
"""Greatest size in bytes of a set of values that is cached. Larger ones, which only a hostile peer
sends, are decoded each time, so that they do not fill memory."""

REQUIRED: Final = (
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SOPInstanceUID",
    "PatientID",
    "StudyDate",
    "SOPClassUID",
)
"""Keywords of the required elements. They are checked in this order; the first one that is missing
determines the error."""

_SERIES_KEYWORDS: Final = tuple(
    keyword for keyword in KEYWORDS if keyword not in ("SOPInstanceUID", "InstanceNumber")
)
_INSTANCE_LEVEL: Final = REQUIRED.index("SOPInstanceUID")


class InstanceNames(NamedTuple):
    """The series, UIDs and file name of an instance that has all required elements."""

    series: SeriesInfo
    sop_class_uid: str
    """Value without padding, for comparison with the one of the command."""
    sop_instance_uid: str
    """Value without padding, for comparison with the one of the command."""
    file_name: str
    """File name in the series folder: `series.path`, or the path that an earlier instance set."""


class SeriesNames(NamedTuple):
    """The decoded series-level values, and the VRs of the two instance-level ones.

    `series` is None if a required value is missing or illegal.
    """

    series: SeriesInfo | None
    sop_class_uid: str
    series_instance_uid: str | None
    sop_instance_uid_vr: str
    instance_number_vr: str
    instance_is_text: bool
    """Whether the VRs of SOPInstanceUID and InstanceNumber are text."""
    fault: int
    """Index into REQUIRED of the first series-level element that is missing or illegal; the length
    of REQUIRED if there is none."""
    illegal: tuple[str, ...]
    """Keywords of elements with illegal values: StudyDate, for which the instance is refused, and
    PatientAge, which is ignored."""


def read_names(reader: Reader, calling_ae_title: str) -> InstanceNames:
    """Return the names of a data set that was read without failure.

    Raises InstanceError 0xC000 if a required element is missing or illegal, or if the path would be
    too long.
    """
    names = read_series(reader, calling_ae_title)
    common = None
    if names.series is not None and names.instance_is_text:
        common = _dimse.file_name(reader.instance_number, reader.sop_instance_uid)
    sop_instance_uid, file_name = common or general_file_name(reader, names)
    series = names.series
    assert series is not None  # otherwise general_file_name has raised
    check_path(series.path, file_name)
    return InstanceNames(series, names.sop_class_uid, sop_instance_uid, file_name)


def general_file_name(reader: Reader, names: SeriesNames) -> tuple[str, str]:
    """Return the SOP Instance UID and the file name, however the values are written.

    Raises InstanceError 0xC000 if a required element is missing or illegal.
    """
    uid = text_of("SOPInstanceUID", reader.sop_instance_uid, names.sop_instance_uid_vr)
    if uid is None and names.fault > _INSTANCE_LEVEL:
        raise _missing("SOPInstanceUID")
    if names.series is None or uid is None:
        keyword = REQUIRED[names.fault]
        raise _illegal(keyword) if keyword in names.illegal else _missing(keyword)
    number = text_of("InstanceNumber", reader.instance_number, names.instance_number_vr)
    return uid.strip(" \0"), instance_file_name(number, uid)


def series_uid_of(reader: Reader, calling_ae_title: str) -> str | None:
    """Return the SeriesInstanceUID, even if the reader has failed; None if it was not read."""
    return read_series(reader, calling_ae_title).series_instance_uid


_Key = tuple[tuple[bytes | None, ...], bytes, str]
_series_names: dict[_Key, SeriesNames] = {}


def read_series(reader: Reader, calling_ae_title: str) -> SeriesNames:
    """Return the decoded series-level values of `reader`, from the cache if they are in it."""
    key = (reader.series_values(), reader.vrs, calling_ae_title)
    names = _series_names.get(key)
    if names is None:
        names = decode_series(*key)
        if sum(len(value) for value in key[0] if value is not None) <= MAX_CACHED_SERIES_BYTES:
            while len(_series_names) >= MAX_CACHED_SERIES:
                # Drop the oldest set; a series that still arrives is decoded again.
                _series_names.pop(next(iter(_series_names)), None)
            _series_names[key] = names
    return names


def decode_series(
    values: tuple[bytes | None, ...], vrs: bytes, calling_ae_title: str
) -> SeriesNames:
    """Return the decoded form of `Walker.series_values` (`values`) and `Walker.vrs`.

    `calling_ae_title` must be trimmed and not blank.
    """
    read_as = {
        keyword: vr_of(keyword, vrs[2 * i : 2 * i + 2]) for i, keyword in enumerate(KEYWORDS)
    }
    raw = dict(zip(_SERIES_KEYWORDS, values, strict=True))
    encodings = charset_of(raw["SpecificCharacterSet"], read_as["SpecificCharacterSet"])
    text = {
        keyword: text_of(keyword, value, read_as[keyword], encodings)
        for keyword, value in raw.items()
    }
    study_date = iso_date(text["StudyDate"] or "")
    days = days_of_age(text["PatientAge"] or "")
    judged = {"StudyDate": study_date, "PatientAge": days}
    return SeriesNames(
        series=_series_info(text, study_date, days, calling_ae_title),
        sop_class_uid=(text["SOPClassUID"] or "").strip(" \0"),
        series_instance_uid=text["SeriesInstanceUID"],
        sop_instance_uid_vr=read_as["SOPInstanceUID"],
        instance_number_vr=read_as["InstanceNumber"],
        instance_is_text=is_text(read_as["SOPInstanceUID"]) and is_text(read_as["InstanceNumber"]),
        fault=_first_fault({**text, "StudyDate": study_date}),
        illegal=tuple(k for k, known in judged.items() if known is None and text[k] is not None),
    )


def _first_fault(text: dict[str, str | None]) -> int:
    for index, keyword in enumerate(REQUIRED):
        if index != _INSTANCE_LEVEL and text[keyword] is None:
            return index
    return len(REQUIRED)


def _series_info(
    text: dict[str, str | None], study_date: str | None, days: int | None, calling_ae_title: str
) -> SeriesInfo | None:
    study_uid, series_uid = text["StudyInstanceUID"], text["SeriesInstanceUID"]
    patient_id, date_as_received = text["PatientID"], text["StudyDate"]
    if (
        study_uid is None
        or series_uid is None
        or patient_id is None
        or date_as_received is None
        or study_date is None
        or text["SOPClassUID"] is None
    ):
        return None
    pacs_name = pacs_name_of(calling_ae_title)
    return SeriesInfo(
        calling_ae_title=calling_ae_title,
        pacs_name=pacs_name,
        path=_series_path(text, pacs_name, patient_id, date_as_received, series_uid),
        patient_id=patient_id,
        study_date=study_date,
        study_instance_uid=study_uid,
        series_instance_uid=series_uid,
        patient_name=text["PatientName"],
        patient_birth_date=text["PatientBirthDate"],
        patient_age=days,
        patient_sex=text["PatientSex"],
        accession_number=text["AccessionNumber"],
        modality=text["Modality"],
        protocol_name=text["ProtocolName"],
        study_description=text["StudyDescription"],
        series_description=text["SeriesDescription"],
    )


def _series_path(
    text: dict[str, str | None], pacs_name: str, patient_id: str, study_date: str, series_uid: str
) -> str:
    return series_folder(
        pacs_name=pacs_name,
        patient_id=patient_id,
        patient_name=text["PatientName"],
        patient_birth_date=text["PatientBirthDate"],
        study_description=text["StudyDescription"],
        accession_number=text["AccessionNumber"],
        study_date=study_date,
        series_number=text["SeriesNumber"],
        series_description=text["SeriesDescription"],
        series_instance_uid=series_uid,
    )


def _missing(keyword: str) -> InstanceError:
    return InstanceError(
        DimseStatus.CANNOT_UNDERSTAND,
        f"Missing required tag: {keyword}",
        TAGS[keyword],
        f"DICOM file does not have the required tag: {keyword}",
    )


def _illegal(keyword: str) -> InstanceError:
    notice = f"Illegal value for tag {keyword}"
    return InstanceError(DimseStatus.CANNOT_UNDERSTAND, notice, TAGS[keyword], notice)
