"""The invented patients, and the identifiers of their studies and series.

All of it is a function of names: every build has the same UIDs, and pixels drawn from the same
seeds.
"""

from __future__ import annotations

import uuid
from typing import NamedTuple

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://github.com/FNNDSC/oxidicom/samples")


def uid(*names: object) -> str:
    """Return a UID below 2.25, from a version 5 UUID (PS3.5 B.2): a hash of the names."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, '/'.join(map(str, names))).int}"


def seed(identifier: str) -> int:
    """Return the seed of an instance's noise."""
    return int(identifier.rpartition(".")[2])


class Patient(NamedTuple):
    patient_id: str
    name: str
    birth_date: str
    sex: str
    character_set: str | list[str]


class Study(NamedTuple):
    patient: Patient
    key: str
    description: str
    date: str
    time: str
    age: str
    """Age of the patient on that day, of VR AS."""
    accession_number: str

    @property
    def study_instance_uid(self) -> str:
        return uid(self.key)

    @property
    def frame_of_reference_uid(self) -> str:
        return uid(self.key, "frame of reference")


class Series(NamedTuple):
    study: Study
    number: int
    modality: str
    description: str
    protocol: str = ""
    body_part: str = ""

    @property
    def series_instance_uid(self) -> str:
        return uid(self.study.key, self.number)

    def sop_instance_uid(self, number: int) -> str:
        return uid(self.study.key, self.number, number)

    @property
    def folder(self) -> str:
        return f"{self.study.patient.patient_id}/{self.study.key}/{self.number:02}-{self.modality}"


ADULT = Patient("SAMPLE-0001", "Sample^Adult^^Dr.", "19690214", "M", "ISO_IR 100")
CHILD = Patient("SAMPLE-0002", "Müstermann^Zoë", "20190630", "F", "ISO_IR 100")
# The example of PS3.5 H.3.1, in alphabetic, ideographic and phonetic form.
JAPANESE = Patient(
    "SAMPLE-0003",
    "Yamada^Tarou=山田^太郎=やまだ^たろう",
    "19541201",
    "M",
    ["", "ISO 2022 IR 87"],
)
UNICODE = Patient("SAMPLE-0004", "Prøve^Δοκιμή", "19881111", "O", "ISO_IR 192")

CHEST = Study(
    *(ADULT, "chest", "CT Chest & Planning"),
    *("20260112", "091500", "056Y", "SMP26-00017"),
)
BRAIN = Study(
    *(CHILD, "brain", "MRI Brain w/o contrast"),
    *("20260113", "143000", "006Y", "SMP26-00018"),
)
HEART = Study(
    *(JAPANESE, "heart", "心臓超音波 Echocardiography"),
    *("20260114", "101010", "071Y", "SMP26-00019"),
)
BIOPSY = Study(
    *(UNICODE, "biopsy", "Skin biopsy, H&E"),
    *("20260115", "160000", "037Y", "SMP26-00020"),
)
