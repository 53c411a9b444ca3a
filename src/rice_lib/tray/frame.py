"""A grain of a tray as the model knows grains: alone, as it lay, on black, at the training images' scale.

The training images are 250 x 250 files of one grain, cut out sharply on nearly black, which `to_square` brings to the
model's 224. A grain of a tray is brought to the scale of those files, put in the centre of a black square of 250
pixels, and takes the same last step.
"""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

from rice_lib.contract.decode import to_square
from rice_lib.tray.find import Grain, mask_of

SIDE = 250  # side in pixels of the training images' files
RIM = 1.5
"""Pixels of a file inside the outline where the camera's blur mixes a grain's colour with the background's: they take
the colour of the nearest pixel further in."""


def frame(image: np.ndarray, grain: Grain, factor: float, gain: float = 1.0) -> np.ndarray:
    """Show one grain as the model sees it: `cut_out`, brought to uint8 RGB `[224, 224, 3]`."""
    return np.asarray(to_square(Image.fromarray(cut_out(image, grain, factor, gain))))


def cut_out(image: np.ndarray, grain: Grain, factor: float, gain: float = 1.0) -> np.ndarray:
    """Cut one grain out of a tray, uint8 RGB `[H, W, 3]`, alone on black, as a training image's file holds it.

    `factor` is the pixels of a training file to one of the tray, `gain` what its brightness is multiplied by (`light`).
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
