"""CT and MR: series of slices, and a whole volume in one enhanced instance."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pydicom import Dataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    RLELossless,
)

from samples import phantom
from samples.identity import Series, seed, uid
from samples.modules import (
    add_frame_of_reference,
    add_grey_pixels,
    code,
    decimal,
    decimals,
    instance,
    item,
    sequence,
)

AXIAL = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
CT_INTERCEPT = -1024.0
BITS = 12


def ct(series: Series, slices: int, side: int) -> Iterator[Dataset]:
    thickness = phantom.CHEST_HEIGHT / slices
    for number in range(1, slices + 1):
        made = instance(series, CTImageStorage, number)
        made.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        made.KVP = "120"
        made.XRayTubeCurrent = 180
        made.ExposureTime = 500
        made.ConvolutionKernel = "B30f"
        made.AcquisitionNumber = 1
        made.PatientPosition = "HFS"
        _add_plane(made, series, number, phantom.CHEST_FIELD, side, thickness)
        add_grey_pixels(made, side, side, BITS, 16)
        made.RescaleIntercept = decimal(CT_INTERCEPT)
        made.RescaleSlope = "1"
        made.RescaleType = "HU"
        made.WindowCenter = "40"
        made.WindowWidth = "400"
        picture = phantom.draw(
            *(phantom.chest(number / slices), side, phantom.CHEST_FIELD),
            background=phantom.AIR,
            noise=12,
            seed=seed(made.SOPInstanceUID),
        )
        made.PixelData = phantom.stored(picture - CT_INTERCEPT, BITS)
        yield made


def mr(
    series: Series,
    slices: int,
    side: int,
    contrast: str,
    transfer_syntax: str = ExplicitVRLittleEndian,
) -> Iterator[Dataset]:
    """Make slices with native pixels, or with run lengths where `transfer_syntax` is RLE
    Lossless."""
    thickness = phantom.HEAD_HEIGHT / slices
    repetition, echo = {"T1": ("600", "12"), "T2": ("4200", "98"), "DWI": ("6500", "85")}[contrast]
    for number in range(1, slices + 1):
        compressed = transfer_syntax == RLELossless
        begun = ExplicitVRLittleEndian if compressed else transfer_syntax
        made = instance(series, MRImageStorage, number, begun)
        made.ImageType = ["ORIGINAL", "PRIMARY", "M", "NONE"]
        made.ScanningSequence = "EP" if contrast == "DWI" else "SE"
        made.SequenceVariant = "NONE"
        made.ScanOptions = ""
        made.MRAcquisitionType = "2D"
        made.RepetitionTime = repetition
        made.EchoTime = echo
        made.EchoTrainLength = 1
        made.MagneticFieldStrength = "3"
        made.PatientPosition = "HFS"
        _add_plane(made, series, number, phantom.HEAD_FIELD, side, thickness)
        add_grey_pixels(made, side, side, BITS, 16)
        picture = _head_picture(made, number / slices, side, contrast, number)
        made.PixelData = phantom.stored(picture, BITS)
        if compressed:
            made.compress(
                RLELossless,
                np.frombuffer(made.PixelData, "<u2").reshape(side, side),
                encoding_plugin="pydicom",
                generate_instance_uid=False,
            )
        yield made


def enhanced_mr(series: Series, frames: int, side: int) -> Iterator[Dataset]:
    """Make one multi-frame instance (PS3.3 A.36.2)."""
    made = instance(series, EnhancedMRImageStorage, 1)
    # Derived, as from resampling, so that no acquisition parameters are needed.
    kind = ["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"]
    made.ImageType = kind
    made.AcquisitionDateTime = series.study.date + series.study.time
    made.AcquisitionDuration = 212.0
    made.AcquisitionNumber = 1
    made.ContentQualification = "RESEARCH"
    made.ResonantNucleus = "1H"
    made.KSpaceFiltering = "NONE"
    made.MagneticFieldStrength = 3.0
    made.ApplicableSafetyStandardAgency = "IEC"
    made.PatientPosition = "HFS"
    made.BurnedInAnnotation = "NO"
    made.LossyImageCompression = "00"
    made.PresentationLUTShape = "IDENTITY"
    made.AcquisitionContextSequence = sequence()
    _add_frame_descriptions(made)
    add_frame_of_reference(made, series)
    thickness = phantom.HEAD_HEIGHT / frames
    organisation = uid(series.series_instance_uid, "dimensions")
    made.DimensionOrganizationType = "3D"
    made.DimensionOrganizationSequence = sequence(item(DimensionOrganizationUID=organisation))
    made.DimensionIndexSequence = sequence(
        item(
            DimensionOrganizationUID=organisation,
            DimensionIndexPointer=0x00200032,
            FunctionalGroupPointer=0x00209113,
        )
    )
    made.SharedFunctionalGroupsSequence = sequence(
        item(
            PixelMeasuresSequence=sequence(
                item(
                    SliceThickness=decimal(thickness),
                    PixelSpacing=decimals([phantom.HEAD_FIELD / side] * 2),
                )
            ),
            PlaneOrientationSequence=sequence(item(ImageOrientationPatient=decimals(AXIAL))),
            FrameAnatomySequence=sequence(
                item(
                    AnatomicRegionSequence=sequence(code("12738006", "SCT", "Brain")),
                    FrameLaterality="U",
                )
            ),
            PixelValueTransformationSequence=sequence(
                item(RescaleIntercept="0", RescaleSlope="1", RescaleType="US")
            ),
            FrameVOILUTSequence=sequence(item(WindowCenter="500", WindowWidth="1000")),
            MRImageFrameTypeSequence=sequence(
                item(
                    FrameType=kind,
                    PixelPresentation="MONOCHROME",
                    VolumetricProperties="VOLUME",
                    VolumeBasedCalculationTechnique="NONE",
                    ComplexImageComponent="MAGNITUDE",
                    AcquisitionContrast="T1",
                )
            ),
        )
    )
    made.PerFrameFunctionalGroupsSequence = sequence(
        *(_frame(number, frames, side, thickness) for number in range(1, frames + 1))
    )
    add_grey_pixels(made, side, side, BITS, 16)
    made.NumberOfFrames = frames
    made.PixelData = b"".join(
        phantom.stored(_head_picture(made, number / frames, side, "T1", number), BITS)
        for number in range(1, frames + 1)
    )
    yield made


def _add_frame_descriptions(made: Dataset) -> None:
    made.PixelPresentation = "MONOCHROME"
    made.VolumetricProperties = "VOLUME"
    made.VolumeBasedCalculationTechnique = "NONE"
    made.ComplexImageComponent = "MAGNITUDE"
    made.AcquisitionContrast = "T1"


def _frame(number: int, frames: int, side: int, thickness: float) -> Dataset:
    return item(
        FrameContentSequence=sequence(
            item(
                FrameAcquisitionNumber=1,
                StackID="1",
                InStackPositionNumber=number,
                DimensionIndexValues=[number],
            )
        ),
        PlanePositionSequence=sequence(
            item(ImagePositionPatient=_position(number, phantom.HEAD_FIELD, side, thickness))
        ),
    )


def _head_picture(
    made: Dataset, height: float, side: int, contrast: str, number: int
) -> phantom.Picture:
    return phantom.draw(
        *(phantom.head(height, contrast), side, phantom.HEAD_FIELD),
        background=20,
        noise=15,
        seed=seed(made.SOPInstanceUID) + number,
    )


def _add_plane(
    made: Dataset, series: Series, number: int, field: float, side: int, thickness: float
) -> None:
    """Add the Frame of Reference and Image Plane modules."""
    add_frame_of_reference(made, series)
    made.SliceThickness = decimal(thickness)
    made.PixelSpacing = decimals([field / side] * 2)
    made.ImageOrientationPatient = decimals(AXIAL)
    made.ImagePositionPatient = _position(number, field, side, thickness)
    made.SliceLocation = decimal((number - 1) * thickness)


def _position(number: int, field: float, side: int, thickness: float) -> list[str]:
    """Return the centre of a slice's first pixel; the first slice is at 0."""
    corner = field * (0.5 / side - 0.5)
    return decimals([corner, corner, (number - 1) * thickness])
