"""Ultrasound in JPEG Baseline: a clip and stills, from the frames of a sample that pydicom
ships."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import JPEGBaseline8Bit, UltrasoundImageStorage, UltrasoundMultiFrameImageStorage

from samples.identity import Series
from samples.modules import add_colour_pixels, instance

SOURCE = "examples_ybr_color.dcm"
STILLS = 3
FRAME_TIME = "33.333"
"""Milliseconds of a frame."""


def ultrasound(series: Series, frames: int) -> Iterator[Dataset]:
    """Make a clip of `frames` frames, at most 30, and three stills."""
    path = get_testdata_file(SOURCE, download=False)
    if path is None:
        raise FileNotFoundError(f"{SOURCE} is not in this pydicom; versions 3.0 and later ship it")
    source = dcmread(path)
    pictures = list(generate_frames(source.PixelData, number_of_frames=source.NumberOfFrames))
    clip = instance(series, UltrasoundMultiFrameImageStorage, 1, JPEGBaseline8Bit)
    clip.FrameTime = FRAME_TIME
    clip.NumberOfFrames = frames
    clip.FrameIncrementPointer = 0x00181063
    _add_pixels(clip, source, pictures[:frames])
    yield clip
    for number in range(STILLS):
        still = instance(series, UltrasoundImageStorage, 2 + number, JPEGBaseline8Bit)
        _add_pixels(still, source, [pictures[number * frames // STILLS]])
        yield still


def _add_pixels(made: Dataset, source: Dataset, pictures: list[bytes]) -> None:
    made.ImageType = ["ORIGINAL", "PRIMARY", "EPICARDIAL", "0001"]
    made.PatientOrientation = ""
    made.SequenceOfUltrasoundRegions = deepcopy(source.SequenceOfUltrasoundRegions)
    add_colour_pixels(made, source.Rows, source.Columns, source.PhotometricInterpretation)
    native = source.Rows * source.Columns * 3 * len(pictures)
    made.LossyImageCompression = "01"
    made.LossyImageCompressionRatio = f"{native / sum(map(len, pictures)):.1f}"
    made.LossyImageCompressionMethod = "ISO_10918_1"
    made.PixelData = encapsulate(pictures)
    made["PixelData"].VR = "OB"
    made["PixelData"].is_undefined_length = True
