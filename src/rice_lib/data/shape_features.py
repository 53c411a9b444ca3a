"""Compute ten plain features of a grain (size, outline, colour): the floor that learnt features have to beat."""

from __future__ import annotations

import math
from collections.abc import Iterable

import cv2
import numpy as np
import pandas as pd

from rice_lib.contract.features import background_level, principal_moments
from rice_lib.data.manifest import usable

FEATURE_NAMES = (
    "area", "major axis", "minor axis", "aspect", "solidity", "roundness", "red", "green", "blue", "luma spread",
)  # fmt: skip
"""area: pixels of the grain; major and minor axis: lengths in pixels of the ellipse with the grain's second moments;
aspect: major / minor; solidity: area / area of the convex hull; roundness: 4 pi area / perimeter^2 (1 for a disc); red,
green, blue: means inside the grain, 0-255; luma spread: standard deviation of luma (ITU-R BT.601) there. Lengths are in
pixels of the 224-pixel image: times 250 / 224 for those of the public set's files."""


def shape_features(pixels: np.ndarray | Iterable[np.ndarray]) -> np.ndarray:
    """Compute the features of the largest bright object of each image, uint8 `[224, 224, 3]`.

    Returns float32 `[n, 10]`, columns as `FEATURE_NAMES`; zeros for an image with nothing in it.
    """
    return np.array([_features(image) for image in pixels], dtype=np.float32).reshape(-1, len(FEATURE_NAMES))


def measure(table: pd.DataFrame, pixels: np.ndarray, per_class: int, seed: int) -> pd.DataFrame:
    """Compute the features of at most `per_class` usable images of each variety, drawn by `seed`.

    Takes the manifest and its cache (uint8 `[rows of the manifest, 224, 224, 3]`); returns path, label, number and the
    ten features, in the manifest's order.
    """
    good = usable(table)
    drawn = good.sample(frac=1, random_state=seed).groupby("label").head(per_class).sort_index()
    features = pd.DataFrame(shape_features(pixels[row] for row in drawn.index), columns=list(FEATURE_NAMES))
    return pd.concat([drawn[["path", "label", "number"]].reset_index(drop=True), features], axis=1)


def grain_mask(image: np.ndarray) -> np.ndarray:
    """Find the largest connected object above `background_level` in any channel: uint8 `[224, 224]`, 0 and 1."""
    red, green, blue = cv2.split(image)
    brightest = cv2.max(cv2.max(red, green), blue)
    _, bright = cv2.threshold(brightest, background_level(brightest), 1, cv2.THRESH_BINARY)
    count, objects, stats, _ = cv2.connectedComponentsWithStats(bright, connectivity=8)
    if count < 2:
        return bright
    return (objects == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())).astype(np.uint8)


def _features(image: np.ndarray) -> tuple[float, ...]:
    mask = grain_mask(image)
    moments = cv2.moments(mask, binaryImage=True)
    area = moments["m00"]
    if area == 0:
        return (0.0,) * len(FEATURE_NAMES)
    second = principal_moments(*(moments[name] / area for name in ("mu20", "mu02", "mu11")))
    major, minor = (4 * math.sqrt(moment) for moment in second[:2])
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outline = max(outlines, key=len)
    # the outline runs through pixel centres; + perimeter / 2 + 1 (Pick's theorem) makes the area a count of pixels
    hull = cv2.convexHull(outline)
    hull_area = cv2.contourArea(hull) + cv2.arcLength(hull, True) / 2 + 1
    perimeter = max(cv2.arcLength(outline, True), 1.0)
    # the two outermost pixels are half background: they would measure the outline's length, not the colour
    inside = cv2.erode(mask, np.ones((3, 3), np.uint8), iterations=2, borderValue=0)
    inside = inside if inside.any() else mask
    red, green, blue, _ = cv2.mean(image, inside)
    _, spread = cv2.meanStdDev(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), mask=inside)
    roundness = 4 * np.pi * area / perimeter**2
    return area, major, minor, major / minor, area / hull_area, roundness, red, green, blue, float(spread[0, 0])
