"""The light on a tray, read off the grains themselves, and corrected towards that of the training images.

A photograph of white paper is exposed for the paper, and grains on it come out dull; a lamp at one side makes half of
a tray darker than the other. The varieties differ in brightness too (means of 205 to 237 grey levels), so the light is
corrected only as far as the grains lie outside what the training images show.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from rice_lib.tray.find import Grain, mask_of

BRIGHTNESS = (203.0, 236.0)  # grey levels of the dullest and the brightest variety: means of Karacadag and Ipsala
MAX_GAIN = 2.0  # the light is corrected by no more than one stop: black rice stays black
MIN_FOR_PLANE = 20  # fewer grains say what the light is, not how it falls off: chance mixes bright and dull varieties


def gains(image: np.ndarray, grains: Sequence[Grain]) -> np.ndarray:
    """Compute what the pixels of each grain of a tray, uint8 RGB `[H, W, 3]`, are multiplied by: float64 `[grains]`."""
    masks = [mask_of(grain.outline) for grain in grains]
    means = [cv2.mean(image[y : y + m.shape[0], x : x + m.shape[1]], m)[:3] for m, (x, y) in masks]
    levels = np.log(np.maximum(1.0, np.mean(means, axis=1)))
    light = np.full(len(grains), np.median(levels))
    if len(grains) >= MIN_FOR_PLANE:
        places = np.array([grain.centre for grain in grains]) / max(image.shape[:2])
        terms = np.column_stack([np.ones(len(grains)), places - places.mean(axis=0)])
        # least absolute deviations by iterated least squares: a stone or a coin does not tilt the plane
        weight = np.ones(len(grains))
        for _ in range(10):
            root = np.sqrt(weight)
            light = terms @ np.linalg.lstsq(terms * root[:, None], levels * root, rcond=None)[0]
            weight = 1 / np.maximum(np.abs(levels - light), 0.02)
    correction = np.clip(light, *np.log(BRIGHTNESS)) - light
    return np.exp(np.clip(correction, -np.log(MAX_GAIN), np.log(MAX_GAIN)))
