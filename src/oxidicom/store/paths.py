"""Names of series folders and instance files, sanitised as in the reference (decisions 25–27)."""

from __future__ import annotations

import re
from typing import Final

from oxidicom.constants import DimseStatus
from oxidicom.errors import InstanceError
from oxidicom.store.seahash import short_hash

COMPONENT_LIMIT: Final = 255
"""Greatest length in bytes of one component of a path, on every common file system."""

PATH_LIMIT: Final = 1024
"""Greatest length of a path below the files root that CUBE accepts, in characters."""

_UNSAFE: Final = re.compile(r"[^A-Za-z0-9.-]+")
_U32: Final = re.compile(r"\+?0*([0-9]{1,10})")
_U32_MAX: Final = 2**32 - 1


def sanitise(text: str) -> str:
    """Remove NULs, then replace each run of characters other than ASCII letters, digits, `.` and
    `-` by one `_`."""
    return _UNSAFE.sub("_", text.replace("\0", ""))


def pacs_name_of(calling_ae_title: str) -> str:
    """Return the name of a PACS in paths and in CUBE: its calling AE title, sanitised.

    `_` takes the place of names that a path cannot contain: the empty one, `.` and `..`.
    """
    name = sanitise(calling_ae_title)
    return "_" if name in ("", ".", "..") else name


def series_folder(
    *,
    pacs_name: str,
    patient_id: str,
    patient_name: str | None,
    patient_birth_date: str | None,
    study_description: str | None,
    accession_number: str | None,
    study_date: str,
    series_number: str | None,
    series_description: str | None,
    series_instance_uid: str,
) -> str:
    """Return the path of a series folder, relative to the files root.

    An absent element is None: patient name and birth date are then left out, and each of the others
    is replaced by its keyword. `study_date` is the text as received.
    """
    patient = (patient_id, patient_name or "", patient_birth_date or "")
    study = (
        "StudyDescription" if study_description is None else study_description,
        "AccessionNumber" if accession_number is None else accession_number,
        study_date,
    )
    series = (
        _number(series_number, "SeriesNumber", 5),
        "SeriesDescription" if series_description is None else series_description,
        short_hash(series_instance_uid.encode(), 7),
    )
    folders = [_cut("-".join(map(sanitise, parts))) for parts in (patient, study, series)]
    return "/".join(["SERVICES/PACS", pacs_name, *folders])


def instance_file_name(instance_number: str | None, sop_instance_uid: str) -> str:
    """Return the name of an instance's file in its series folder, of at most 255 bytes."""
    number = _number(instance_number, "InstanceNumber", 4)
    return _cut(f"{number}-{sanitise(sop_instance_uid)}", COMPONENT_LIMIT - len(".dcm")) + ".dcm"


def check_path(folder: str, file_name: str) -> None:
    """Raise InstanceError 0xC000 if the path of the file would be longer than PATH_LIMIT."""
    if len(folder) + 1 + len(file_name) > PATH_LIMIT:
        raise InstanceError(
            DimseStatus.CANNOT_UNDERSTAND, f"Path of file would exceed {PATH_LIMIT} characters"
        )


def _number(text: str | None, keyword: str, width: int) -> str:
    """Return a number padded with zeros to `width` characters, as the reference writes it.

    An unsigned 32-bit integer loses its sign and leading zeros first; any other text is sanitised.
    Returns `keyword` if `text` is None.
    """
    if text is None:
        return keyword
    match = _U32.fullmatch(text)
    if match is not None and (number := int(match[1])) <= _U32_MAX:
        return str(number).rjust(width, "0")
    return sanitise(text).rjust(width, "0")


def _cut(component: str, limit: int = COMPONENT_LIMIT) -> str:
    """Cut sanitised text, which is ASCII, to `limit` bytes; cut text ends in a hash."""
    if len(component) <= limit:
        return component
    ending = "-" + short_hash(component.encode(), 8)
    return component[: limit - len(ending)] + ending
