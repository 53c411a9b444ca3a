"""From a photograph of a tray to its grains: outlines, places and sizes.

What stands out from the background (`rice_lib.tray.background`) is separated into single grains
(`rice_lib.tray.separate`). Specks are left out; what the picture's border cuts is counted apart, for its size is
unknown.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import cv2
import numpy as np

from rice_lib.contract.features import principal_moments
from rice_lib.contract.image_file import BadImageError
from rice_lib.tray.background import TOO_UNEVEN, Background, fit_background
from rice_lib.tray.separate import separate

MAX_PIXELS = 64 * 1024 * 1024  # of the largest photograph: another would take gigabytes of memory
MAX_OBJECTS = 5000  # more objects than this are no tray of grains, but a texture
MIN_AREA = 60.0  # pixels: a smaller grain has no shape that a model could see
SPECK = 0.12  # of the typical grain's area: what is smaller is dust or a crumb
FRAY = 0.03  # frays of an outline finer than this are smoothed away; of the square root of the grain's area
MIN_TYPICAL = 0.55  # on a texture: of the contrast that three quarters of the objects' area do not exceed
DISTINCT = 4.0  # on a texture: an object this many times above its least contrast is none of the texture's marks
TRUSTED = 2.5  # the same for half of the objects: photographs of grains on cloth and metal reach 3, on wood 2
MIN_WIDTH = 0.24  # on a texture: width of an object, of the square root of the typical area, that is no scratch

_LEVELS = (0.35, 0.42, 0.5, 0.58, 0.66, 0.74)  # shares of an object's contrast at which its outline is looked for
_SQUARE = np.ones((3, 3), np.uint8)


@dataclass(frozen=True)
class Grain:
    """One object on a tray; lengths in pixels of the photograph."""

    outline: np.ndarray  # int32 `[n, 2]` (x, y), closed
    centre: tuple[float, float]  # (x, y); (0, 0) is the centre of the first pixel
    length: float  # major axis of the ellipse with the same second moments
    width: float  # minor axis of that ellipse
    angle: float  # of the major axis: degrees from the x axis, counter-clockwise as seen, 0 to 180
    area: float  # pixels

    @classmethod
    def of(cls, outline: np.ndarray) -> Grain:
        """Measure the grain inside an outline."""
        mask, (left, top) = mask_of(outline)
        moments = cv2.moments(mask, binaryImage=True)
        area = moments["m00"]
        major, minor, angle = principal_moments(*(moments[name] / area for name in ("mu20", "mu02", "mu11")))
        centre = (moments["m10"] / area + left, moments["m01"] / area + top)
        return cls(outline, centre, 4 * math.sqrt(major), 4 * math.sqrt(minor), -math.degrees(angle) % 180, area)


@dataclass(frozen=True)
class Found:
    """What lies on a tray."""

    grains: list[Grain]  # in reading order
    cut: list[np.ndarray]  # outlines of what the picture's border cuts
    background: Background


def mask_of(outline: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """Fill an outline: a uint8 mask of 0 and 1, and the place (x, y) of its first pixel."""
    x, y, w, h = cv2.boundingRect(outline)
    mask = np.zeros((h, w), np.uint8)
    cv2.fillPoly(mask, [outline - (x, y)], 1)
    return mask, (x, y)


def find(image: np.ndarray) -> Found:
    """Find the grains of a tray, uint8 RGB `[H, W, 3]`.

    Raises `BadImageError` where it is too large, its background too uneven, nothing on it, or more than `MAX_OBJECTS`.
    """
    height, width = image.shape[:2]
    if height * width > MAX_PIXELS:
        raise BadImageError(f"the photograph is too large ({width} x {height} pixels): make it smaller")
    background = fit_background(image)
    inside: list[np.ndarray] = []
    cut: list[np.ndarray] = []
    for outline in (part for own in _outlines(image, background) for part in separate(own)):
        low, high = outline.min(axis=0), outline.max(axis=0)
        at_border = (low <= 1).any() or high[0] >= width - 2 or high[1] >= height - 2
        (cut if at_border else inside).append(outline)
    areas = np.array([cv2.contourArea(outline) for outline in inside])
    # the median area, weighted by the objects' lengths: neither a coin nor many specks move it far
    typical = float(np.quantile(areas, 0.5, weights=np.sqrt(areas), method="inverted_cdf")) if inside else 0.0
    min_area, min_width = max(MIN_AREA, SPECK * typical), 0 if background.plain else MIN_WIDTH * math.sqrt(typical)
    grains = [
        Grain.of(_smooth(outline))
        for outline, area in zip(inside, areas, strict=True)
        if area >= min_area and min(cv2.minAreaRect(outline)[1]) >= min_width
    ]
    if not grains:
        raise BadImageError("no grains on the background" + (", but for what the border cuts" if cut else ""))
    row = float(np.median([grain.length for grain in grains]))
    return Found(
        grains=sorted(grains, key=lambda grain: (int(grain.centre[1] // row), grain.centre[0])),
        cut=[outline for outline in cut if cv2.contourArea(outline) >= min_area],
        background=background,
    )


def _outlines(image: np.ndarray, background: Background) -> list[np.ndarray]:
    """Outline every object, where the picture is steepest."""
    difference, least = background.difference, background.min_contrast
    factor = image.shape[1] / difference.shape[1]
    standing = difference[difference > least]
    if not len(standing):
        raise BadImageError("nothing lies on the background")
    solid = (difference > np.maximum(least, _LEVELS[0] * float(np.median(standing)))).astype(np.uint8)
    solid = np.asarray(cv2.morphologyEx(solid, cv2.MORPH_OPEN, _SQUARE), np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(solid, connectivity=4)
    large = [i for i in range(1, count) if stats[i, cv2.CC_STAT_AREA] >= max(MIN_AREA / factor**2 / 2, 9)]
    if len(large) > MAX_OBJECTS:
        raise BadImageError(f"more than {MAX_OBJECTS} objects on the background: photograph fewer grains at once")
    boxes = [tuple(slice(start, start + size) for start, size in (stats[i, 1:4:2], stats[i, 0:3:2])) for i in large]
    contrasts = np.array(
        [np.quantile(difference[box][labels[box] == i], 0.75) for i, box in zip(large, boxes, strict=True)]
    )
    kept = np.full(len(large), True)
    if large and not background.plain:
        kept = _distinct(contrasts, stats[large, cv2.CC_STAT_AREA], np.array([least[box].mean() for box in boxes]))
    result = []
    for i, box, contrast in itertools.compress(zip(large, boxes, contrasts, strict=True), kept):
        own, levels = (labels[box] == i).astype(np.uint8), difference[box]
        if factor != 1:
            size = (round(own.shape[1] * factor), round(own.shape[0] * factor))
            own, levels = cv2.resize(own, size, interpolation=cv2.INTER_NEAREST), cv2.resize(levels, size)
        corner = np.round(np.array([box[1].start, box[0].start]) * factor).astype(np.int32)
        result += [outline + corner for outline in _steepest(levels, own > 0, contrast)]
    return result


def _distinct(contrasts: np.ndarray, areas: np.ndarray, least: np.ndarray) -> np.ndarray:
    """Mark the objects that are no scratch or fold of a textured background, bool `[n]`.

    Raises `BadImageError` where the texture reaches too much of the contrast of what lies on it.
    """
    typical = np.quantile(contrasts, 0.75, weights=areas, method="inverted_cdf")
    distinct = (contrasts >= MIN_TYPICAL * typical) | (contrasts >= DISTINCT * least)
    if np.median(contrasts[distinct] / least[distinct]) < TRUSTED:
        raise BadImageError(TOO_UNEVEN)
    return distinct


def _steepest(difference: np.ndarray, own: np.ndarray, contrast: float) -> list[np.ndarray]:
    """Outline one object at the level where its rim is steepest: a soft shadow beside it is left outside."""
    steep = np.hypot(cv2.Sobel(difference, cv2.CV_32F, 1, 0), cv2.Sobel(difference, cv2.CV_32F, 0, 1))
    best, chosen = -1.0, own.astype(np.uint8)
    for level in _LEVELS:
        solid = (own & (difference > level * contrast)).astype(np.uint8)
        rim = solid - cv2.erode(solid, _SQUARE, borderType=cv2.BORDER_CONSTANT, borderValue=1)
        if rim.any() and (mean := float(steep[rim > 0].mean())) > best:
            best, chosen = mean, solid
    opened = cv2.morphologyEx(np.pad(chosen, 2), cv2.MORPH_OPEN, _SQUARE)
    return [outline - 2 for outline in contours(opened) if cv2.contourArea(outline) >= MIN_AREA / 2]


def _smooth(outline: np.ndarray) -> np.ndarray:
    """Smooth an outline: where a grain is hardly brighter than the background, noise eats into its rim.

    A line too thin for its length to survive the smoothing (a card's edge) keeps its outline.
    """
    mask, (left, top) = mask_of(outline)
    sigma = FRAY * float(np.sqrt(mask.sum()))
    margin = int(3 * sigma) + 1
    soft = cv2.GaussianBlur(np.pad(mask, margin).astype(np.float32), (0, 0), sigma)
    smoothed = max(contours((soft > 0.5).astype(np.uint8)), key=cv2.contourArea, default=None)
    return outline if smoothed is None else smoothed + np.array([left - margin, top - margin], np.int32)


def contours(mask: np.ndarray) -> list[np.ndarray]:
    """Trace the outer outlines of a uint8 mask, int32 `[n, 2]` (x, y) each, every pixel of them."""
    found, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return [np.asarray(outline[:, 0], np.int32) for outline in found]
