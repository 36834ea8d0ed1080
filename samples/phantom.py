"""Pictures of phantoms: ellipses and noise, in grey values as a scanner stores them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.float32]


class Ellipse(NamedTuple):
    """An ellipse: centre and half axes in mm, x to the patient's left and y to the back."""

    name: str
    x: float
    y: float
    across: float
    deep: float
    value: float

    def outline(self, points: int) -> list[tuple[float, float]]:
        angles = (2 * math.pi * n / points for n in range(points))
        return [
            (self.x + self.across * math.cos(angle), self.y + self.deep * math.sin(angle))
            for angle in angles
        ]


CHEST_FIELD = 380.0
CHEST_HEIGHT = 300.0
HEAD_FIELD = 230.0
HEAD_HEIGHT = 150.0
"""Millimetres of width of a picture and of height of a volume."""

AIR = -1000.0


def chest(height: float) -> list[Ellipse]:
    """Return the organs at a height from 0 (diaphragm) to 1 (shoulders), in Hounsfield units; later
    ones cover earlier ones."""
    swell = math.sin(math.pi * (0.15 + 0.8 * height))
    organs = [
        Ellipse("BODY", 0, 0, 150 + 15 * height, 100 + 8 * swell, 40),
        Ellipse("LUNG_R", -72, -8, 30 + 32 * swell, 40 + 32 * swell, -820),
        Ellipse("LUNG_L", 72, -8, 28 + 30 * swell, 40 + 30 * swell, -820),
        Ellipse("SPINE", 0, 68, 19, 17, 420),
        Ellipse("CORD", 0, 72, 7, 6, 30),
    ]
    if height < 0.6:
        organs.append(Ellipse("HEART", 22, -28, 52 * (1 - height), 42 * (1 - height), 55))
    if 0.4 < height < 0.5:
        organs.append(Ellipse("GTV", -70, -20, 11, 9, 35))
    return organs


def head(height: float, contrast: str) -> list[Ellipse]:
    """Return the tissues as `chest` does, in arbitrary units of a `contrast`: T1, T2 or DWI."""
    scalp, skull, brain, fluid = {
        "T1": (900, 60, 520, 120),
        "T2": (700, 50, 430, 1000),
        "DWI": (150, 30, 480, 60),
    }[contrast]
    round_ = math.sqrt(max(0.15, 1 - (1.6 * height - 0.6) ** 2))
    return [
        Ellipse("SCALP", 0, 0, 76 * round_, 94 * round_, scalp),
        Ellipse("SKULL", 0, 0, 71 * round_, 89 * round_, skull),
        Ellipse("BRAIN", 0, 0, 66 * round_, 84 * round_, brain),
        Ellipse("VENTRICLE_R", -12, -6, 7 * round_, 26 * round_, fluid),
        Ellipse("VENTRICLE_L", 12, -6, 7 * round_, 26 * round_, fluid),
    ]


def draw(
    organs: Iterable[Ellipse],
    side: int,
    field: float,
    *,
    background: float,
    noise: float,
    seed: int,
) -> Picture:
    """Draw a square picture of `side` pixels over `field` mm."""
    place = pixel_centres(side, field)
    picture = np.full((side, side), background, np.float32)
    for organ in organs:
        across = ((place - organ.x) / organ.across) ** 2
        deep = ((place - organ.y) / organ.deep) ** 2
        picture[deep[:, None] + across[None, :] <= 1] = organ.value
    generator = np.random.Generator(np.random.PCG64(seed))
    picture += generator.standard_normal((side, side), dtype=np.float32) * np.float32(noise)
    return picture


def pixel_centres(side: int, field: float) -> Picture:
    """Return the centres of the pixels, in mm from the middle of the picture."""
    return (((np.arange(side) + 0.5) / side - 0.5) * field).astype(np.float32)


def stored(picture: Picture, bits: int) -> bytes:
    """Encode little endian words of `bits` bits; values outside their range are clipped."""
    return np.clip(np.rint(picture), 0, (1 << bits) - 1).astype("<u2").tobytes()


def tissue_tile(row: int, column: int, side: int, tiles: int, seed: int) -> bytes:
    """Draw a part of a stained section: pink tissue in a round patch with purple nuclei, otherwise
    glass."""
    generator = np.random.Generator(np.random.PCG64(seed))
    place = (np.arange(side, dtype=np.float32) + 0.5) / side
    across = (place + column) / tiles - 0.5
    down = (place + row) / tiles - 0.5
    distance = np.sqrt((down**2)[:, None] + (across**2)[None, :])
    inside = distance < 0.42 + 0.02 * np.sin(40 * across)[None, :]
    grain = generator.integers(0, 256, (side, side), dtype=np.uint8)
    picture = np.empty((side, side, 3), np.uint8)
    picture[:] = (243, 242, 245)
    picture[inside] = (232, 170, 200)
    picture[inside & (grain > 225)] = (110, 70, 150)
    picture -= (grain >> 4)[:, :, None]
    return picture.tobytes()
