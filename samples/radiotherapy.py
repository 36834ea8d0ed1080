"""A radiotherapy set for a CT series: structures, a plan and its dose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import (
    ImplicitVRLittleEndian,
    RTDoseStorage,
    RTPlanStorage,
    RTStructureSetStorage,
)

from samples import phantom
from samples.identity import Series
from samples.modules import (
    add_frame_of_reference,
    add_grey_pixels,
    decimal,
    decimals,
    instance,
    item,
    reference,
    sequence,
)

PLAN_SOURCE = "rtplan.dcm"
DETACHED_STUDY = "1.2.840.10008.3.1.2.3.1"
"""A retired SOP class by which PS3.3 C.8.8.5 refers to a study."""

COLOURS = {"BODY": [0, 200, 0], "LUNG_R": [0, 120, 255], "LUNG_L": [0, 120, 255]}
TARGET = "GTV"
OUTLINE = 64
"""Number of points of a contour."""

DOSE_GRID = 5.0
"""Millimetres between two points of the dose."""
DOSE_SCALING = 1e-4
"""Gray of a stored unit."""
PRESCRIBED = 60.0
"""Prescribed dose in Gray."""


def structures(series: Series, images: Sequence[Dataset]) -> Iterator[Dataset]:
    """Make contours of the phantom on its own slices; `images` are the CT's, without pixels."""
    made = instance(series, RTStructureSetStorage, 1)
    made.OperatorsName = ""
    made.StructureSetLabel = "Phantom"
    made.StructureSetDate = series.study.date
    made.StructureSetTime = series.study.time
    frame = series.study.frame_of_reference_uid
    made.FrameOfReferenceUID = frame
    made.PositionReferenceIndicator = ""
    made.ReferencedFrameOfReferenceSequence = sequence(
        item(
            FrameOfReferenceUID=frame,
            RTReferencedStudySequence=sequence(
                item(
                    ReferencedSOPClassUID=DETACHED_STUDY,
                    ReferencedSOPInstanceUID=series.study.study_instance_uid,
                    RTReferencedSeriesSequence=sequence(
                        item(
                            SeriesInstanceUID=images[0].SeriesInstanceUID,
                            ContourImageSequence=sequence(*map(reference, images)),
                        )
                    ),
                )
            ),
        )
    )
    outlines = _outlines(images)
    made.StructureSetROISequence = sequence(
        *(
            item(
                ROINumber=number,
                ReferencedFrameOfReferenceUID=frame,
                ROIName=name,
                ROIGenerationAlgorithm="AUTOMATIC",
            )
            for number, name in enumerate(outlines, 1)
        )
    )
    made.ROIContourSequence = sequence(
        *(
            item(
                ROIDisplayColor=COLOURS.get(name, [255, 80, 80]),
                ReferencedROINumber=number,
                ContourSequence=sequence(*contours),
            )
            for number, (name, contours) in enumerate(outlines.items(), 1)
        )
    )
    made.RTROIObservationsSequence = sequence(
        *(
            item(
                ObservationNumber=number,
                ReferencedROINumber=number,
                RTROIInterpretedType={"BODY": "EXTERNAL", TARGET: TARGET}.get(name, "ORGAN"),
                ROIInterpreter="",
            )
            for number, name in enumerate(outlines, 1)
        )
    )
    made.ApprovalStatus = "UNAPPROVED"
    yield made


def _outlines(images: Sequence[Dataset]) -> dict[str, list[Dataset]]:
    """Return contours by the name of what they enclose."""
    outlines: dict[str, list[Dataset]] = {}
    for number, image in enumerate(images, 1):
        height = image.ImagePositionPatient[2]
        for organ in phantom.chest(number / len(images)):
            points = (decimal(value) for x, y in organ.outline(OUTLINE) for value in (x, y, height))
            outlines.setdefault(organ.name, []).append(
                item(
                    ContourImageSequence=sequence(reference(image)),
                    ContourGeometricType="CLOSED_PLANAR",
                    NumberOfContourPoints=OUTLINE,
                    ContourData=list(points),
                )
            )
    return outlines


def plan(series: Series, structure_set: Dataset) -> Iterator[Dataset]:
    """Make a plan with the beam of one that pydicom ships, in Implicit VR as many planning systems
    write."""
    path = get_testdata_file(PLAN_SOURCE, download=False)
    if path is None:
        raise FileNotFoundError(f"{PLAN_SOURCE} is not in this pydicom")
    source = dcmread(path)
    made = instance(series, RTPlanStorage, 1, ImplicitVRLittleEndian)
    made.OperatorsName = ""
    made.RTPlanLabel = "Phantom"
    made.RTPlanDate = series.study.date
    made.RTPlanTime = series.study.time
    made.RTPlanGeometry = "PATIENT"
    made.FrameOfReferenceUID = series.study.frame_of_reference_uid
    made.PositionReferenceIndicator = ""
    for keyword in ("DoseReferenceSequence", "FractionGroupSequence", "BeamSequence"):
        setattr(made, keyword, deepcopy(getattr(source, keyword)))
    beam = made.BeamSequence[0]
    beam.InstitutionName = made.InstitutionName
    beam.ControlPointSequence[0].IsocenterPosition = decimals(
        [-70, -20, 0.45 * phantom.CHEST_HEIGHT]
    )
    made.PatientSetupSequence = sequence(item(PatientPosition="HFS", PatientSetupNumber=1))
    made.ReferencedStructureSetSequence = sequence(reference(structure_set))
    made.ApprovalStatus = "UNAPPROVED"
    yield made


def dose(series: Series, planned: Dataset) -> Iterator[Dataset]:
    """Make a dose around the target, with 32 bits a point."""
    made = instance(series, RTDoseStorage, 1)
    across = round(phantom.CHEST_FIELD / DOSE_GRID)
    high = round(phantom.CHEST_HEIGHT / DOSE_GRID)
    corner = DOSE_GRID / 2 - phantom.CHEST_FIELD / 2
    add_frame_of_reference(made, series)
    made.SliceThickness = decimal(DOSE_GRID)
    made.PixelSpacing = decimals([DOSE_GRID, DOSE_GRID])
    made.ImageOrientationPatient = decimals([1, 0, 0, 0, 1, 0])
    made.ImagePositionPatient = decimals([corner, corner, 0])
    add_grey_pixels(made, across, across, 32, 32)
    made.NumberOfFrames = high
    made.FrameIncrementPointer = 0x3004000C
    made.DoseUnits = "GY"
    made.DoseType = "PHYSICAL"
    made.DoseSummationType = "PLAN"
    made.GridFrameOffsetVector = decimals(n * DOSE_GRID for n in range(high))
    made.DoseGridScaling = f"{DOSE_SCALING:g}"
    made.ReferencedRTPlanSequence = sequence(reference(planned))
    place = corner + DOSE_GRID * np.arange(across)
    height = DOSE_GRID * np.arange(high) - 0.45 * phantom.CHEST_HEIGHT
    squares = (
        (height**2)[:, None, None]
        + ((place + 20) ** 2)[None, :, None]
        + ((place + 70) ** 2)[None, None, :]
    )
    grays = PRESCRIBED * np.exp(-squares / (2 * 30.0**2))
    made.PixelData = np.rint(grays / DOSE_SCALING).astype("<u4").tobytes()
    made["PixelData"].VR = "OW"
    yield made
