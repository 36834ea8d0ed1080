"""A whole slide: one instance of many tiles (PS3.3 A.32.8)."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom import Dataset
from pydicom.uid import VLWholeSlideMicroscopyImageStorage

from samples import phantom
from samples.colour import srgb_like_profile
from samples.identity import Series, seed, uid
from samples.modules import (
    add_colour_pixels,
    add_frame_of_reference,
    code,
    decimals,
    instance,
    item,
    sequence,
)

MILLIMETRES = 15.0
"""Millimetres of width and height of the scanned area."""


def whole_slide(series: Series, tiles: int, side: int) -> Iterator[Dataset]:
    """Make a slide of `tiles` × `tiles` tiles of `side` × `side` pixels, native RGB."""
    made = instance(series, VLWholeSlideMicroscopyImageStorage, 1)
    kind = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    made.ImageType = kind
    made.AcquisitionDateTime = series.study.date + series.study.time
    made.AcquisitionDuration = 95.0
    made.BurnedInAnnotation = "NO"
    made.LossyImageCompression = "00"
    made.VolumetricProperties = "VOLUME"
    made.FocusMethod = "AUTO"
    made.ExtendedDepthOfField = "NO"
    made.SpecimenLabelInImage = "NO"
    made.AcquisitionContextSequence = sequence()
    _add_specimen(made, series)
    _add_optical_path(made)
    add_frame_of_reference(made, series)
    made.PositionReferenceIndicator = "SLIDE_CORNER"
    made.DimensionOrganizationType = "TILED_FULL"
    organisation = uid(series.series_instance_uid, "dimensions")
    made.DimensionOrganizationSequence = sequence(item(DimensionOrganizationUID=organisation))
    made.ImagedVolumeWidth = MILLIMETRES
    made.ImagedVolumeHeight = MILLIMETRES
    made.ImagedVolumeDepth = 1.0
    made.TotalPixelMatrixColumns = tiles * side
    made.TotalPixelMatrixRows = tiles * side
    made.TotalPixelMatrixFocalPlanes = 1
    made.TotalPixelMatrixOriginSequence = sequence(
        item(XOffsetInSlideCoordinateSystem="20", YOffsetInSlideCoordinateSystem="40")
    )
    made.ImageOrientationSlide = decimals([0, -1, 0, -1, 0, 0])
    made.SharedFunctionalGroupsSequence = sequence(
        item(
            PixelMeasuresSequence=sequence(
                item(
                    SliceThickness="0.005",
                    PixelSpacing=decimals([MILLIMETRES / (tiles * side)] * 2),
                )
            ),
            WholeSlideMicroscopyImageFrameTypeSequence=sequence(item(FrameType=kind)),
            OpticalPathIdentificationSequence=sequence(item(OpticalPathIdentifier="1")),
        )
    )
    add_colour_pixels(made, side, side, "RGB")
    made.NumberOfFrames = tiles * tiles
    made.PixelData = b"".join(
        phantom.tissue_tile(
            row, column, side, tiles, seed(made.SOPInstanceUID) + row * tiles + column
        )
        for row in range(tiles)
        for column in range(tiles)
    )
    made["PixelData"].VR = "OB"
    yield made


def _add_specimen(made: Dataset, series: Series) -> None:
    made.ContainerIdentifier = f"{series.study.accession_number}-A"
    made.IssuerOfTheContainerIdentifierSequence = sequence()
    made.ContainerTypeCodeSequence = sequence(code("433466003", "SCT", "Microscope slide"))
    made.SpecimenDescriptionSequence = sequence(
        item(
            SpecimenIdentifier=f"{series.study.accession_number}-A-1",
            SpecimenUID=uid(series.series_instance_uid, "specimen"),
            IssuerOfTheSpecimenIdentifierSequence=sequence(),
            SpecimenPreparationSequence=sequence(),
            PrimaryAnatomicStructureSequence=sequence(code("39937001", "SCT", "Skin")),
        )
    )


def _add_optical_path(made: Dataset) -> None:
    made.NumberOfOpticalPaths = 1
    made.OpticalPathSequence = sequence(
        item(
            IlluminationTypeCodeSequence=sequence(
                code("111744", "DCM", "Brightfield illumination")
            ),
            ICCProfile=srgb_like_profile(),
            IlluminationColorCodeSequence=sequence(code("371251000", "SCT", "White")),
            OpticalPathIdentifier="1",
            OpticalPathDescription="Brightfield",
        )
    )
