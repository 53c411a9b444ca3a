"""A grain of a tray as the model knows grains: alone, as it lay, on black, at the training images' scale.

The training images are 250 x 250 files of one grain, cut out sharply on nearly black, which `to_square` brings to the
model's 224. A grain of a tray is brought to the scale of those files, put in the centre of a black square of 250
pixels, and takes the same last step.

The light is read off the grains themselves. A photograph of white paper is exposed for the paper, and grains on it
come out dull; a lamp at one side makes half of a tray darker than the other. The varieties differ in brightness too
(means of 205 to 237 grey levels), so it is corrected only as far as they lie outside what the training images show.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image

from rice_lib.contract.decode import to_square
from rice_lib.tray.find import Grain, mask_of

SIDE = 250  # side in pixels of the training images' files
RIM = 1.5
"""Pixels of a file inside the outline where the camera's blur mixes a grain's colour with the background's: they take
the colour of the nearest pixel further in."""

BRIGHTNESS = (203.0, 236.0)  # grey levels of the dullest and the brightest variety: means of Karacadag and Ipsala
MAX_GAIN = 2.0  # the light is corrected by no more than one stop: black rice stays black
MIN_FOR_PLANE = 20  # fewer grains say what the light is, not how it falls off: chance mixes bright and dull varieties


def frame(image: np.ndarray, grain: Grain, factor: float, gain: float = 1.0) -> np.ndarray:
    """Show one grain as the model sees it: `cut_out`, brought to uint8 RGB `[224, 224, 3]`."""
    return np.asarray(to_square(Image.fromarray(cut_out(image, grain, factor, gain))))


def cut_out(image: np.ndarray, grain: Grain, factor: float, gain: float = 1.0) -> np.ndarray:
    """Cut one grain out of a tray, uint8 RGB `[H, W, 3]`, alone on black, as a training image's file holds it.

    `factor` is the pixels of a training file to one of the tray, `gain` what its brightness is multiplied by (`gains`).
    Gives uint8 RGB `[SIDE, SIDE, 3]`; an object longer than the frame is reduced until it fits.
    """
    mask, (left, top) = mask_of(grain.outline)
    height, width = mask.shape
    factor = min(factor, (SIDE - 2) / max(height, width))
    colours = _without_rim(image[top : top + height, left : left + width], mask, RIM / factor)
    colours = cv2.convertScaleAbs(colours, alpha=gain)
    if factor != 1:
        width, height = size = (max(1, round(width * factor)), max(1, round(height * factor)))
        colours = cv2.resize(colours, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
        mask = (cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_LINEAR) > 0.5).astype(np.uint8)
    square = np.zeros((SIDE, SIDE, 3), np.uint8)
    row, column = (SIDE - height) // 2, (SIDE - width) // 2
    square[row : row + height, column : column + width] = colours * mask[..., None]
    return square


def _without_rim(colours: np.ndarray, mask: np.ndarray, rim: float) -> np.ndarray:
    """Replace the pixels outside the grain and on its rim by the nearest ones inside."""
    depth = cv2.distanceTransform(np.pad(mask, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    inside = depth > min(rim, 0.5 * float(depth.max()))
    _, nearest = cv2.distanceTransformWithLabels(
        (~inside).astype(np.uint8), cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL
    )
    # labels number the inside pixels in an order of OpenCV's own: read off at the pixels themselves
    places = np.zeros(int(nearest.max()) + 1, np.int64)
    places[nearest[inside]] = np.flatnonzero(inside)
    return colours.reshape(-1, 3)[places[nearest]].reshape(colours.shape)


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
