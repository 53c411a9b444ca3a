"""The ground of a tray: one colour under uneven light, and what stands out from it.

The light is fitted as a smooth surface, robustly, so that grains and shadows do not pull it. What differs from the
surface is projected on the colour in which the things on the tray differ most. A shadow differs too, but softly:
of the two sides (brighter and darker than the ground), the one with the sharper outlines is that of the grains.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from rice_lib.contract.decode import BadImageError

SMALL = 640
"""Longest side in pixels of the reduced picture that the ground is fitted to."""

DEGREE = 3
"""Of the polynomial surface: enough for a lamp at one side and for a lens's dark corners."""

LEAST_CONTRAST = 10.0
"""Grey levels by which a thing must differ from the ground, however even that is."""

NOISES = 5.0
"""Standard deviations of the ground by which a thing must differ from it."""

PLAIN_SHARE = 0.35
"""Least share of the picture that is ground."""

PLAIN_SPREAD = 14.0
"""Most grey levels (standard deviation) by which a plain ground varies, its uneven light taken away."""

LEAST_COVER = 2e-5
"""Share of the picture below which what stands out is dust."""

_EXPONENTS = [(i, j) for i in range(DEGREE + 1) for j in range(DEGREE + 1 - i)]


@dataclass(frozen=True)
class Ground:
    """The surface of a tray's ground, and the way in which things differ from it."""

    surface: np.ndarray
    """float64 `[4, 4, 3]`: coefficients of y^i x^j for each channel; x and y run from -1 to 1 over the picture."""
    spread: float
    """Standard deviation of the ground about its surface, grey levels."""
    direction: np.ndarray
    """float64 `[3]`, length 1: from the ground's colour to that of the things on it, RGB."""

    @property
    def darker(self) -> bool:
        """The ground is darker than what lies on it."""
        return bool(self.direction.sum() > 0)

    def difference(self, image: np.ndarray) -> np.ndarray:
        """How far each pixel is from the ground towards the things' colour: float32 `[H, W]`, grey levels.

        Args:
            image: uint8 RGB `[H, W, 3]`.
        """
        rows, columns = _powers(image.shape[0]), _powers(image.shape[1])
        seen = np.empty(image.shape[:2], np.float32)
        along = self.direction.astype(np.float32)
        for start in range(0, len(image), 256):  # by bands: the whole picture as floats would be 12 bytes a pixel
            band = slice(start, start + 256)
            level = rows[band] @ (self.surface @ self.direction) @ columns.T
            seen[band] = image[band] @ along - level
        return seen


def fit_ground(image: np.ndarray) -> Ground:
    """Find the ground of a tray.

    Args:
        image: uint8 RGB `[H, W, 3]`.

    Raises:
        BadImageError: the picture has no plain ground, or nothing lies on it.
    """
    factor = min(1.0, SMALL / max(image.shape[:2]))
    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    surface, spread, share = _fit(small)
    if share < PLAIN_SHARE or spread > PLAIN_SPREAD:
        raise BadImageError("no plain ground: lay the grains on one dark or light colour that fills the picture")
    return Ground(surface, spread, _direction(small - _evaluate(surface, small.shape[:2]), spread))


def _fit(small: np.ndarray) -> tuple[np.ndarray, float, float]:
    """The surface, the ground's spread about it, and the share of the picture that is ground.

    Tukey's biweight by iterated least squares (Beaton & Tukey 1974, Technometrics 16:147), begun from the medians
    of tiles.
    """
    height, width = small.shape[:2]
    step = max(1, int(np.sqrt(height * width / 20000)))
    rows, columns = np.arange(0, height, step), np.arange(0, width, step)
    terms = _terms(_powers(height)[rows], _powers(width)[columns])
    values = small[::step, ::step].reshape(-1, 3).astype(np.float64)
    tiles = max(2, len(rows) // 8), max(2, len(columns) // 8)
    start = cv2.medianBlur(small[::step, ::step].astype(np.uint8), 2 * (min(tiles) // 2) * 4 + 1)
    coefficients = np.linalg.lstsq(terms, start.reshape(-1, 3).astype(np.float64), rcond=None)[0]
    for _ in range(20):
        distance, scale = _distances(values - terms @ coefficients)
        weight = np.clip(1 - (distance / (4 * scale)) ** 2, 0, None)
        coefficients = np.linalg.lstsq(terms * weight[:, None], values * weight[:, None], rcond=None)[0]
    distance, scale = _distances(values - terms @ coefficients)
    surface = np.zeros((DEGREE + 1, DEGREE + 1, 3))
    for (i, j), own in zip(_EXPONENTS, coefficients, strict=True):
        surface[i, j] = own
    return surface, scale, float((distance < 4 * scale).mean())


def _distances(residual: np.ndarray) -> tuple[np.ndarray, float]:
    """Largest distance over the channels, and the scale of the ground's: it survives 60 % of grains."""
    distance = np.abs(residual).max(axis=1)
    # of the largest of three normal deviates that go together, 35 % lie within 0.45 standard deviations
    return distance, max(1.0, float(np.quantile(distance, PLAIN_SHARE)) / 0.45)


def _powers(count: int) -> np.ndarray:
    """float64 `[count, 4]`: powers 0 to 3 of the positions of pixel middles in [-1, 1]."""
    middle = (np.arange(count) + 0.5) * (2 / count) - 1
    return middle[:, None] ** np.arange(DEGREE + 1)


def _terms(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """float64 `[len(rows) * len(columns), 10]`: the products y^i x^j of the surface."""
    return np.stack([np.outer(rows[:, i], columns[:, j]).ravel() for i, j in _EXPONENTS], axis=1)


def _evaluate(surface: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    rows, columns = _powers(shape[0]), _powers(shape[1])
    return np.stack([rows @ surface[..., c] @ columns.T for c in range(3)], axis=2).astype(np.float32)


def _direction(residual: np.ndarray, spread: float) -> np.ndarray:
    """Unit vector of the mean colour difference of what stands out on the side with the sharper outlines.

    Raises:
        BadImageError: nothing stands out.
    """
    luma = residual.mean(axis=2)
    least = max(LEAST_CONTRAST, NOISES * spread)
    best, direction = 0.0, None
    for side in (luma, -luma):
        things = side > least
        if things.mean() < LEAST_COVER:
            continue
        # the outline of what reaches half of the side's contrast: steep around a grain, gentle around a shadow
        strong = np.median(side[things])
        solid = (side > max(least, strong / 2)).astype(np.uint8)
        rim = cv2.morphologyEx(solid, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
        steep = np.hypot(cv2.Sobel(side, cv2.CV_32F, 1, 0, scale=1 / 8), cv2.Sobel(side, cv2.CV_32F, 0, 1, scale=1 / 8))
        weight = float(np.sqrt(solid.sum()) * np.quantile(steep[rim], 0.25))
        if weight > best:
            best, mean = weight, residual[side > max(least, 0.7 * strong)].mean(axis=0)
            direction = mean / np.linalg.norm(mean)
    if direction is None:
        raise BadImageError("nothing lies on the ground (or grains and ground have the same brightness)")
    return direction.astype(np.float64)
