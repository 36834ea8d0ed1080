"""Modules that several object definitions share (PS3.3 C.7), as elements of a data set."""

from __future__ import annotations

from collections.abc import Iterable

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian

from samples.identity import Series, uid

IMPLEMENTATION_CLASS_UID = uid("implementation")
IMPLEMENTATION_VERSION_NAME = "OXI_SAMPLES"


def instance(
    series: Series, sop_class: str, number: int, transfer_syntax: str = ExplicitVRLittleEndian
) -> Dataset:
    """Make the Patient, General Study, General Series, General Equipment and SOP Common modules,
    and the File Meta Information of a Part 10 file (PS3.10 7.1)."""
    study, patient = series.study, series.study.patient
    made = Dataset()
    made.SpecificCharacterSet = patient.character_set
    made.InstanceCreationDate = study.date
    made.InstanceCreationTime = study.time
    made.SOPClassUID = sop_class
    made.SOPInstanceUID = series.sop_instance_uid(number)
    made.StudyDate = study.date
    made.SeriesDate = study.date
    made.ContentDate = study.date
    made.StudyTime = study.time
    made.SeriesTime = study.time
    made.ContentTime = study.time
    made.AccessionNumber = study.accession_number
    made.Modality = series.modality
    made.Manufacturer = "oxidicom samples"
    made.InstitutionName = "Invented Hospital"
    made.ReferringPhysicianName = "Nobody^Real"
    made.StationName = f"{series.modality}1"
    made.StudyDescription = study.description
    made.SeriesDescription = series.description
    made.ManufacturerModelName = "Phantom"
    made.PatientName = patient.name
    made.PatientID = patient.patient_id
    made.PatientBirthDate = patient.birth_date
    made.PatientSex = patient.sex
    made.PatientAge = study.age
    if series.body_part:
        made.BodyPartExamined = series.body_part
    made.DeviceSerialNumber = "0001"
    made.SoftwareVersions = "1"
    if series.protocol:
        made.ProtocolName = series.protocol
    made.StudyInstanceUID = study.study_instance_uid
    made.SeriesInstanceUID = series.series_instance_uid
    made.StudyID = study.key.upper()
    made.SeriesNumber = series.number
    made.InstanceNumber = number
    made.file_meta = _file_meta(made, transfer_syntax)
    return made


def _file_meta(made: Dataset, transfer_syntax: str) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = made.SOPClassUID
    meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    meta.TransferSyntaxUID = UID(transfer_syntax)
    meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    return meta


def add_frame_of_reference(made: Dataset, series: Series) -> None:
    made.FrameOfReferenceUID = series.study.frame_of_reference_uid
    made.PositionReferenceIndicator = ""


def add_grey_pixels(made: Dataset, rows: int, columns: int, stored: int, allocated: int) -> None:
    """Add the Image Pixel module without the pixels; `stored` and `allocated` are in bits,
    unsigned."""
    made.SamplesPerPixel = 1
    made.PhotometricInterpretation = "MONOCHROME2"
    made.Rows = rows
    made.Columns = columns
    made.BitsAllocated = allocated
    made.BitsStored = stored
    made.HighBit = stored - 1
    made.PixelRepresentation = 0


def add_colour_pixels(made: Dataset, rows: int, columns: int, photometric: str) -> None:
    """Add the Image Pixel module without the pixels, which have three bytes each, by pixel."""
    made.SamplesPerPixel = 3
    made.PhotometricInterpretation = photometric
    made.PlanarConfiguration = 0
    made.Rows = rows
    made.Columns = columns
    made.BitsAllocated = 8
    made.BitsStored = 8
    made.HighBit = 7
    made.PixelRepresentation = 0


def item(**elements: object) -> Dataset:
    """Make an item of a sequence from keywords."""
    made = Dataset()
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


def sequence(*items: Dataset) -> Sequence:
    return Sequence(items)


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """Make a coded entry (PS3.3 8.8)."""
    return item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def reference(made: Dataset) -> Dataset:
    """Make a reference to another instance, by SOP class and UID."""
    return item(
        ReferencedSOPClassUID=made.SOPClassUID, ReferencedSOPInstanceUID=made.SOPInstanceUID
    )


def decimals(numbers: Iterable[float]) -> list[str]:
    """Format numbers for DS, which has at most 16 characters (PS3.5 6.2)."""
    return [decimal(number) for number in numbers]


def decimal(number: float) -> str:
    return f"{number:.6g}"
