"""The contents of the study set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pydicom import Dataset
from pydicom.uid import ImplicitVRLittleEndian, RLELossless

from samples.documents import encapsulated_pdf, structured_report
from samples.identity import BIOPSY, BRAIN, CHEST, HEART, Series
from samples.microscopy import whole_slide
from samples.radiotherapy import dose, plan, structures
from samples.tomography import ct, enhanced_mr, mr
from samples.ultrasound import ultrasound


class Size(NamedTuple):
    ct_slices: int
    ct_side: int
    mr_slices: int
    mr_side: int
    enhanced_frames: int
    us_frames: int
    tiles: int
    tile_side: int
    """Pixels of the side of a picture; a slide has so many `tiles` a side."""


FULL = Size(300, 512, 24, 256, 96, 30, 32, 256)
SMALL = Size(24, 64, 6, 64, 8, 4, 4, 64)

CT = Series(CHEST, 1, "CT", "Lung 1.0 B30f", "Thorax routine", "CHEST")
SR = Series(CHEST, 2, "SR", "Report")
RTSTRUCT = Series(CHEST, 3, "RTSTRUCT", "Structures")
RTPLAN = Series(CHEST, 4, "RTPLAN", "Plan")
RTDOSE = Series(CHEST, 5, "RTDOSE", "Dose")
MR_T1 = Series(BRAIN, 1, "MR", "t1_se_tra", "Brain child", "BRAIN")
MR_T2 = Series(BRAIN, 2, "MR", "t2_tse_tra", "Brain child", "BRAIN")
MR_DWI = Series(BRAIN, 3, "MR", "ep2d_diff b1000", "Brain child", "BRAIN")
MR_ENHANCED = Series(BRAIN, 4, "MR", "t1_mprage 3D", "Brain child", "BRAIN")
PDF = Series(BRAIN, 5, "DOC", "Referral")
US = Series(HEART, 1, "US", "Apical, 4 chambers", "Adult echo", "HEART")
SLIDE = Series(BIOPSY, 1, "SM", "Whole slide 20x", "", "SKIN")


def study_set(size: Size) -> Iterator[tuple[Series, Iterator[Dataset]]]:
    """Yield every series with its instances, which must be taken before the next series: an
    instance is made when it is taken, and later series refer to earlier ones."""
    images: list[Dataset] = []
    yield CT, _keep(ct(CT, size.ct_slices, size.ct_side), images)
    yield SR, structured_report(SR, images[len(images) * 9 // 20])
    kept: list[Dataset] = []
    yield RTSTRUCT, _keep(structures(RTSTRUCT, images), kept)
    yield RTPLAN, _keep(plan(RTPLAN, kept[0]), kept)
    yield RTDOSE, dose(RTDOSE, kept[1])
    slices, side = size.mr_slices, size.mr_side
    yield MR_T1, mr(MR_T1, slices, side, "T1")
    yield MR_T2, mr(MR_T2, slices, side, "T2", ImplicitVRLittleEndian)
    yield MR_DWI, mr(MR_DWI, slices, side, "DWI", RLELossless)
    yield MR_ENHANCED, enhanced_mr(MR_ENHANCED, size.enhanced_frames, side)
    yield PDF, encapsulated_pdf(PDF)
    yield US, ultrasound(US, size.us_frames)
    yield SLIDE, whole_slide(SLIDE, size.tiles, size.tile_side)


def _keep(instances: Iterator[Dataset], kept: list[Dataset]) -> Iterator[Dataset]:
    """Keep each instance without its large elements, for references from other series."""
    for made in instances:
        yield made
        made.pop("PixelData", None)
        kept.append(made)
