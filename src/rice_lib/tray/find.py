"""From a photograph of a tray to its grains: outlines, places and sizes.

What stands out from the ground (`rice_lib.tray.ground`) is cut into single grains (`rice_lib.tray.separate`). Specks
are passed over; what the picture's border cuts is counted, not measured: its size is unknown.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from rice_lib.contract.decode import BadImageError
from rice_lib.tray.ground import LEAST_CONTRAST, NOISES, Ground, fit_ground
from rice_lib.tray.separate import separate

MAX_PIXELS = 64 * 1024 * 1024
"""A larger photograph is refused: it would take gigabytes of memory, and no grain needs it."""

MAX_GRAINS = 5000
"""More things than this are no tray of grains, but a texture."""

LEAST_AREA = 60.0
"""Pixels: a smaller grain has no shape that a model could see."""

SPECK = 0.12
"""Of the typical grain's area: what is smaller is dust or a crumb."""

FRAY = 0.03
"""Frays of an outline finer than this are smoothed away; of the square root of the grain's area."""

_STEPS = (0.35, 0.42, 0.5, 0.58, 0.66, 0.74)
"""Shares of a thing's contrast at which its outline is looked for."""


@dataclass(frozen=True)
class Grain:
    """One thing on a tray; lengths in pixels of the photograph."""

    outline: np.ndarray
    """int32 `[n, 2]` (x, y), closed."""
    centre: tuple[float, float]
    """(x, y), the first pixel's middle being 0."""
    length: float
    """Major axis of the ellipse with the same second moments."""
    width: float
    """Minor axis of that ellipse."""
    angle: float
    """Of the major axis: degrees from the x axis, counter-clockwise as seen, 0 to 180."""
    area: float
    """Pixels."""

    @classmethod
    def of(cls, outline: np.ndarray) -> Grain:
        """The grain inside an outline."""
        mask, (left, top) = mask_of(outline)
        moments = cv2.moments(mask, binaryImage=True)
        area = moments["m00"]
        xx, yy, xy = (moments[k] / area + own for k, own in (("mu20", 1 / 12), ("mu02", 1 / 12), ("mu11", 0.0)))
        middle, swing = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
        return cls(
            outline=outline,
            centre=(moments["m10"] / area + left, moments["m01"] / area + top),
            length=4 * float(np.sqrt(middle + swing)),
            width=4 * float(np.sqrt(max(middle - swing, 1 / 12))),
            angle=float(-np.degrees(0.5 * np.arctan2(2 * xy, xx - yy)) % 180),
            area=area,
        )


@dataclass(frozen=True)
class Found:
    """What lies on a tray."""

    grains: list[Grain]
    """In reading order."""
    cut: list[np.ndarray]
    """Outlines of what the picture's border cuts."""
    specks: int
    """Things too small to be grains."""
    ground: Ground


def mask_of(outline: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """An outline's inside as uint8 0 and 1, and the place (x, y) of the mask's first pixel."""
    x, y, w, h = cv2.boundingRect(outline)
    mask = np.zeros((h, w), np.uint8)
    cv2.fillPoly(mask, [outline - (x, y)], 1)
    return mask, (x, y)


def find(image: np.ndarray) -> Found:
    """Find the grains of a tray.

    Args:
        image: uint8 RGB `[H, W, 3]`.

    Raises:
        BadImageError: too large, no plain ground, nothing on it, or no end of things.
    """
    height, width = image.shape[:2]
    if height * width > MAX_PIXELS:
        raise BadImageError(f"the photograph is too large ({width} x {height} pixels): make it smaller")
    ground = fit_ground(image)
    difference = cv2.GaussianBlur(ground.difference(image), (0, 0), 0.8)
    outlines = [part for whole in _outlines(difference, ground.spread) for part in separate(whole)]
    whole = [outline for outline in outlines if not _at_border(outline, height, width)]
    areas = np.array([cv2.contourArea(outline) for outline in whole])
    least = max(LEAST_AREA, SPECK * _typical(areas))
    grains = [Grain.of(_smooth(outline)) for outline, area in zip(whole, areas, strict=True) if area >= least]
    cut = [outline for outline in outlines if _at_border(outline, height, width)]
    if not grains:
        raise BadImageError("no grains on the ground" + (", but for what the border cuts" if cut else ""))
    return Found(
        grains=_reading_order(grains),
        cut=[outline for outline in cut if cv2.contourArea(outline) >= least],
        specks=len(whole) - len(grains),
        ground=ground,
    )


def _outlines(difference: np.ndarray, spread: float) -> list[np.ndarray]:
    """Outlines of all that stands out, each where the picture is steepest."""
    least = max(LEAST_CONTRAST, NOISES * spread)
    standing = difference[difference > least]
    if not len(standing):
        raise BadImageError("nothing lies on the ground")
    # Otsu among what stands out would part bright grains from dull ones: among all, it parts grains from ground
    contrast = float(np.median(standing))
    solid = (difference > max(least, _STEPS[0] * contrast)).astype(np.uint8)
    solid = np.asarray(cv2.morphologyEx(solid, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)), np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(solid, connectivity=4)
    big = [n for n in range(1, count) if stats[n, cv2.CC_STAT_AREA] >= LEAST_AREA / 2]
    if len(big) > MAX_GRAINS:
        raise BadImageError(f"more than {MAX_GRAINS} things on the ground: photograph fewer grains at once")
    result = []
    for number in big:
        x, y, w, h = stats[number, : cv2.CC_STAT_AREA]
        box = (slice(y, y + h), slice(x, x + w))
        result += [o + np.array([x, y], np.int32) for o in _steepest(difference[box], labels[box] == number, contrast)]
    return result


def _steepest(difference: np.ndarray, own: np.ndarray, contrast: float) -> list[np.ndarray]:
    """Outlines of one thing at the level where its rim is steepest: a soft shadow beside it is left outside."""
    inner = float(np.quantile(difference[own], 0.75))
    steep = np.hypot(cv2.Sobel(difference, cv2.CV_32F, 1, 0), cv2.Sobel(difference, cv2.CV_32F, 0, 1))
    best, chosen = -1.0, own.astype(np.uint8)
    for share in _STEPS:
        solid = (own & (difference > share * inner)).astype(np.uint8)
        rim = solid - cv2.erode(solid, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=1)
        if rim.any() and (mean := float(steep[rim > 0].mean())) > best:
            best, chosen = mean, solid
    opened = cv2.morphologyEx(np.pad(chosen, 2), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    contours, _ = cv2.findContours(opened, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return [c[:, 0] - 2 for c in contours if cv2.contourArea(c) >= LEAST_AREA / 2]


def _smooth(outline: np.ndarray) -> np.ndarray:
    """The outline without its frays: where a grain is hardly brighter than the ground, noise eats into its rim."""
    mask, (left, top) = mask_of(outline)
    sigma = FRAY * float(np.sqrt(mask.sum()))
    margin = int(3 * sigma) + 1
    soft = cv2.GaussianBlur(np.pad(mask, margin).astype(np.float32), (0, 0), sigma)
    contours, _ = cv2.findContours((soft > 0.5).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    largest = max(contours, key=cv2.contourArea)
    return largest[:, 0] + np.array([left - margin, top - margin], np.int32)


def _at_border(outline: np.ndarray, height: int, width: int) -> bool:
    low, high = outline.min(axis=0), outline.max(axis=0)
    return bool((low <= 1).any() or high[0] >= width - 2 or high[1] >= height - 2)


def _typical(areas: np.ndarray) -> float:
    """Median area by the things' lengths: neither a coin nor many specks move it far."""
    if not len(areas):
        return 0.0
    order = np.argsort(areas)
    weight = np.cumsum(np.sqrt(areas[order]))
    return float(areas[order][np.searchsorted(weight, weight[-1] / 2)])


def _reading_order(grains: list[Grain]) -> list[Grain]:
    """Row by row, a row being as high as a grain is long."""
    row = float(np.median([grain.length for grain in grains]))
    return sorted(grains, key=lambda grain: (int(grain.centre[1] // row), grain.centre[0]))
