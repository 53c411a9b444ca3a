"""The background of a tray: one colour under uneven light, and what stands out from it.

The light is fitted as a smooth surface, robustly, so that grains and shadows do not pull it. The difference of each
pixel from the surface is projected on the colour in which the objects on the tray differ most. A shadow differs too,
but softly: of the two sides (brighter and darker than the background), the one with the sharper outlines is taken.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from rice_lib.contract.image_file import BadImageError

FIT_SIDE = 640
"""Longest side in pixels of the reduced picture that the background is fitted to."""

DEGREE = 3
"""Degree of the polynomial surface: enough for a lamp at one side and for a lens's dark corners."""

MIN_CONTRAST = 10.0
"""Grey levels by which an object must differ from the background, however even that is."""

MIN_DEVIATIONS = 5.0
"""Standard deviations of the background by which an object must differ from it."""

MIN_SHARE = 0.35
"""Smallest share of the picture that is background."""

MAX_SPREAD = 14.0
"""Largest standard deviation, in grey levels, of a plain background about its surface."""

MIN_COVER = 2e-5
"""Share of the picture below which what stands out is dust."""

_EXPONENTS = [(i, j) for i in range(DEGREE + 1) for j in range(DEGREE + 1 - i)]


@dataclass(frozen=True)
class Background:
    """The surface of a tray's background, and the direction in colour in which objects differ from it."""

    surface: np.ndarray
    """float64 `[4, 4, 3]`: coefficients of y^i x^j for each channel; x and y run from -1 to 1 over the picture."""
    spread: float
    """Standard deviation of the background about its surface, grey levels."""
    direction: np.ndarray
    """float64 `[3]`, length 1: from the background's colour to that of the objects on it, RGB."""

    @property
    def darker(self) -> bool:
        """Whether the background is darker than what lies on it."""
        return bool(self.direction.sum() > 0)

    @property
    def min_contrast(self) -> float:
        """Grey levels by which an object must differ from it."""
        return _min_contrast(self.spread)

    def difference(self, image: np.ndarray) -> np.ndarray:
        """Compute how far each pixel is from the background towards the objects' colour.

        Args:
            image: uint8 RGB `[H, W, 3]`.

        Returns:
            float32 `[H, W]`, grey levels.
        """
        rows, columns = _powers(image.shape[0]), _powers(image.shape[1])
        difference = np.empty(image.shape[:2], np.float32)
        for start in range(0, len(image), 256):  # by bands: the whole picture as floats would be 12 bytes a pixel
            band = slice(start, start + 256)
            level = rows[band] @ (self.surface @ self.direction) @ columns.T
            difference[band] = image[band] @ self.direction.astype(np.float32) - level
        return difference


def fit_background(image: np.ndarray) -> Background:
    """Find the background of a tray.

    Args:
        image: uint8 RGB `[H, W, 3]`.

    Raises:
        BadImageError: the picture has no plain background, or nothing lies on it.
    """
    height, width = image.shape[:2]
    factor = min(1.0, FIT_SIDE / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    surface, spread, share = _fit(small)
    if share < MIN_SHARE or spread > MAX_SPREAD:
        raise BadImageError("no plain background: lay the grains on one dark or light colour that fills the picture")
    rows, columns = _powers(size[1]), _powers(size[0])
    level = np.stack([rows @ surface[..., channel] @ columns.T for channel in range(3)], axis=2).astype(np.float32)
    return Background(surface, spread, _direction(small - level, _min_contrast(spread)))


def _fit(small: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Fit the surface; also gives the spread about it, and the share of the picture that is background.

    Tukey's biweight by iterated least squares (Beaton & Tukey 1974, Technometrics 16:147), begun from the medians
    of tiles.
    """
    height, width = small.shape[:2]
    step = max(1, int(np.sqrt(height * width / 20000)))
    sample = small[::step, ::step]
    rows, columns = _powers(height)[::step], _powers(width)[::step]
    terms = np.stack([np.outer(rows[:, i], columns[:, j]).ravel() for i, j in _EXPONENTS], axis=1)
    values = sample.reshape(-1, 3).astype(np.float64)
    tile = max(2, min(len(rows), len(columns)) // 8)
    medians = cv2.medianBlur(sample.astype(np.uint8), 2 * (tile // 2) * 4 + 1)
    coefficients = np.linalg.lstsq(terms, medians.reshape(-1, 3).astype(np.float64), rcond=None)[0]
    for _ in range(20):
        distance, spread = _distances(values - terms @ coefficients)
        weight = np.clip(1 - (distance / (4 * spread)) ** 2, 0, None)[:, None]
        coefficients = np.linalg.lstsq(terms * weight, values * weight, rcond=None)[0]
    distance, spread = _distances(values - terms @ coefficients)
    surface = np.zeros((DEGREE + 1, DEGREE + 1, 3))
    surface[tuple(np.transpose(_EXPONENTS))] = coefficients
    return surface, spread, float((distance < 4 * spread).mean())


def _distances(residual: np.ndarray) -> tuple[np.ndarray, float]:
    """Largest distance over the channels, and the background's spread: it survives 60 % of grains."""
    distance = np.abs(residual).max(axis=1)
    # of the largest of three normal deviates that go together, 35 % lie within 0.45 standard deviations
    return distance, max(1.0, float(np.quantile(distance, MIN_SHARE)) / 0.45)


def _min_contrast(spread: float) -> float:
    return max(MIN_CONTRAST, MIN_DEVIATIONS * spread)


def _powers(count: int) -> np.ndarray:
    """float64 `[count, 4]`: powers 0 to 3 of the positions of pixel centres in [-1, 1]."""
    return ((np.arange(count) + 0.5) * (2 / count) - 1)[:, None] ** np.arange(DEGREE + 1)


def _direction(residual: np.ndarray, min_contrast: float) -> np.ndarray:
    """Unit vector of the mean colour difference of what stands out on the side with the sharper outlines."""
    luma = residual.mean(axis=2)
    best, direction = 0.0, None
    for side in (luma, -luma):
        objects = side > min_contrast
        if objects.mean() < MIN_COVER:
            continue
        # the outline of what reaches half of the side's contrast: steep around a grain, gentle around a shadow
        contrast = np.median(side[objects])
        solid = (side > max(min_contrast, contrast / 2)).astype(np.uint8)
        rim = cv2.morphologyEx(solid, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
        steep = np.hypot(cv2.Sobel(side, cv2.CV_32F, 1, 0, scale=1 / 8), cv2.Sobel(side, cv2.CV_32F, 0, 1, scale=1 / 8))
        weight = float(np.sqrt(solid.sum()) * np.quantile(steep[rim], 0.25))
        if weight > best:
            best, mean = weight, residual[side > max(min_contrast, 0.7 * contrast)].mean(axis=0)
            direction = mean / np.linalg.norm(mean)
    if direction is None:
        raise BadImageError("nothing lies on the background (or grains and background have the same brightness)")
    return direction.astype(np.float64)
