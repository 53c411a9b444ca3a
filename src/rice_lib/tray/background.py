"""The background of a tray, and what stands out from it.

A plain background is one colour under uneven light: a smooth surface, fitted robustly, so that neither grains nor
shadows pull it, however much of the picture they cover. What no such surface explains (creased cloth, scratched metal,
wood) is followed through a window instead, and must be exceeded by twice what its texture reaches nearby. The spread
about the surface decides: measured at 2 to 5 grey levels on plain cards, cloth and paper, at 9 to 41 on the others.

A shadow differs from the background too, but softly: of the two sides (brighter and darker than the background), the
one with the sharper outlines is taken. A difference in colour counts on both.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from rice_lib.contract.image_file import BadImageError

FIT_SIDE = 640  # longest side in pixels of the reduced picture that the surface is fitted to
DEGREE = 3  # of the polynomial surface: enough for a lamp at one side and for a lens's dark corners
MIN_CONTRAST = 10.0  # grey levels by which an object must differ from the background, however even that is
MIN_DEVIATIONS = 5.0  # standard deviations of a plain background by which an object must differ from it
MIN_SHARE = 0.35  # smallest share of the picture that is plain background
PLAIN_SPREAD = 7.0  # largest standard deviation of a plain background about its surface, grey levels
MIN_COVER = 2e-5  # share of the picture below which what stands out is dust

TEXTURED_SIDE = 1000  # longest side of the reduced picture in which grains on a texture are looked for: it is averaged
WINDOW_SIDE = 250  # longest side of the reduced picture that the local level is taken from
WINDOW = 0.2  # of the shorter side: the window
MIN_TEXTURED_CONTRAST = 12.0  # as MIN_CONTRAST, on a texture
MIN_TEXTURES = 2.0  # an object must differ by this many times what the texture around it reaches
BLOCK = 8  # pixels of the side of a block, whose 95th percentile is what the texture reaches in it
MAX_COVER = 0.3  # share of the picture that may stand out from a texture: a level follows what covers half a window

TOO_UNEVEN = "the background is too uneven: lay the grains on one dark or light colour that fills the picture"

_EXPONENTS = [(i, j) for i in range(DEGREE + 1) for j in range(DEGREE + 1 - i)]


@dataclass(frozen=True)
class Background:
    """The difference of a picture from its background."""

    difference: np.ndarray
    """float32 `[h, w]`, grey levels, at least 0; of a textured background's picture reduced to `TEXTURED_SIDE`."""
    min_contrast: np.ndarray  # the same shape: the difference that an object must exceed there
    darker: bool  # than what lies on it
    plain: bool  # one colour under uneven light


def fit_background(image: np.ndarray) -> Background:
    """Find the background of a tray, uint8 RGB `[H, W, 3]`.

    Raises `BadImageError` where it is too uneven, or nothing lies on it.
    """
    small = _reduced(image, FIT_SIDE)
    level, spread, share = _surface(small)
    plain = share >= MIN_SHARE and spread <= PLAIN_SPREAD
    if not plain:
        image = small = _reduced(image, TEXTURED_SIDE)
        level = _local_level(image)
    best, chosen = 0.0, 1
    kept = min_contrast = np.array(max(MIN_CONTRAST, MIN_DEVIATIONS * spread), np.float32)
    for sign in (1, -1):
        difference = _difference(small, level, sign)
        least = min_contrast
        if not plain:
            least = np.maximum(MIN_TEXTURED_CONTRAST, MIN_TEXTURES * _texture(difference))
        if (weight := _sharpness(difference, least)) > best:
            best, chosen, kept = weight, sign, least
    if not best:
        nothing = "nothing lies on the background (or grains and background have the same brightness)"
        raise BadImageError(nothing if plain else TOO_UNEVEN)
    difference = _difference(image, level, chosen)
    if not plain and (difference > kept).mean() > MAX_COVER:
        raise BadImageError(TOO_UNEVEN)
    return Background(difference, np.broadcast_to(kept, difference.shape), chosen > 0, plain)


def _reduced(image: np.ndarray, side: int) -> np.ndarray:
    height, width = image.shape[:2]
    factor = min(1.0, side / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))


def _surface(small: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Fit the surface, float32 `[h, w, 3]`; also gives the spread about it, and the share that is background.

    Tukey's biweight by iterated least squares (Beaton & Tukey 1974, Technometrics 16:147), begun from the least
    absolute deviations of the medians of tiles.
    """
    height, width = small.shape[:2]
    step = max(1, int(np.sqrt(height * width / 8000)))
    sample = small[::step, ::step]
    rows, columns = _powers(height)[::step], _powers(width)[::step]
    terms = np.stack([np.outer(rows[:, i], columns[:, j]).ravel() for i, j in _EXPONENTS], axis=1)
    half = max(1, min(len(rows), len(columns)) // 16) * 4
    # mirrored, for medianBlur would repeat what lies at the border: a ruler, a card's edge
    mirrored = cv2.copyMakeBorder(sample, half, half, half, half, cv2.BORDER_REFLECT)
    medians = cv2.medianBlur(mirrored, 2 * half + 1)[half:-half, half:-half]
    coefficients = np.zeros((len(_EXPONENTS), 3))
    pixels = sample.reshape(-1, 3).astype(np.float64)
    for values, rounds in ((medians.reshape(-1, 3).astype(np.float64), 8), (pixels, 20)):
        for _ in range(rounds):
            distance, spread = _distances(values - terms @ coefficients)
            weight = np.clip(1 - (distance / (4 * spread)) ** 2, 0, None) ** 2
            weighted = terms.T * (weight if values is pixels else 1 / np.maximum(distance, 1))
            coefficients = np.linalg.lstsq(weighted @ terms, weighted @ values, rcond=None)[0]
    distance, spread = _distances(pixels - terms @ coefficients)
    surface = np.zeros((DEGREE + 1, DEGREE + 1, 3))
    surface[tuple(np.transpose(_EXPONENTS))] = coefficients
    level = np.einsum("yi,ijc,xj->yxc", _powers(height), surface, _powers(width), optimize=True).astype(np.float32)
    return level, spread, float((distance < 4 * spread).mean())


def _distances(residual: np.ndarray) -> tuple[np.ndarray, float]:
    """Largest distance over the channels, and the background's spread: it survives 60 % of grains."""
    distance = np.abs(residual).max(axis=1)
    # of the largest of three normal deviates that go together, 35 % lie within 0.45 standard deviations
    return distance, max(1.0, float(np.quantile(distance, MIN_SHARE)) / 0.45)


def _powers(count: int) -> np.ndarray:
    """float64 `[count, 4]`: powers 0 to 3 of the positions of pixel centres in [-1, 1]."""
    return ((np.arange(count) + 0.5) * (2 / count) - 1)[:, None] ** np.arange(DEGREE + 1)


def _local_level(image: np.ndarray) -> np.ndarray:
    """Follow a background that no smooth surface explains; float32 `[h, w, 3]`, reduced.

    Begun from the median of a window, refined by weighted means that leave out what stands out (Cauchy's weights).
    """
    tiny = _reduced(image, WINDOW_SIDE)
    window = max(3, int(WINDOW * min(tiny.shape[:2])) | 1)
    level, tiny = cv2.medianBlur(tiny, window).astype(np.float32), tiny.astype(np.float32)
    for _ in range(4):
        distance = np.abs(tiny - level).max(axis=2)
        weight = 1 / (1 + (distance / (2 * max(1.0, float(np.median(distance))))) ** 2)
        total = cv2.GaussianBlur(weight, (0, 0), window / 4)
        level = cv2.GaussianBlur(tiny * weight[..., None], (0, 0), window / 4) / total[..., None]
    return level


def _difference(image: np.ndarray, level: np.ndarray, sign: int) -> np.ndarray:
    """Compute how far each pixel is from the background `level`: on one side in brightness, on every side in colour.

    Takes uint8 RGB `[H, W, 3]`, the background as float32 RGB `[h, w, 3]` of any size, and 1 for what is brighter than
    it, -1 for what is darker; gives float32 `[H, W]`, grey levels.
    """
    height, width = image.shape[:2]
    y, x = len(level) / height, level.shape[1] / width
    image = cv2.GaussianBlur(image, (0, 0), 0.8)
    difference = np.empty((height, width), np.float32)
    for start in range(0, height, 256):  # by bands: the whole picture as floats would be 12 bytes a pixel
        band = image[start : start + 256]
        place = np.array([[x, 0, (x - 1) / 2], [0, y, (start + 0.5) * y - 0.5]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        own = cv2.warpAffine(level, place, band.shape[1::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)
        residual = band - own
        hue = own / np.maximum(np.linalg.norm(own, axis=2, keepdims=True), 1)
        colour = np.linalg.norm(residual - (residual * hue).sum(axis=2, keepdims=True) * hue, axis=2)
        difference[start : start + 256] = np.hypot(np.maximum(sign * residual.mean(axis=2), 0), colour)
    return difference


def _texture(difference: np.ndarray) -> np.ndarray:
    """Compute what the texture of the background reaches around each pixel; float32 `[h, w]`, at least 1.

    The 95th percentile of each block, and of those the median of a window: of most blocks no grain is part.
    """
    height, width = (max(1, side // BLOCK) for side in difference.shape)
    blocks = difference[: height * BLOCK, : width * BLOCK].reshape(height, -1, width, min(BLOCK, difference.shape[1]))
    reached = np.quantile(blocks, 0.95, axis=(1, 3)).astype(np.float32)
    window = max(5, min(height, width) // 3 | 1)
    median = cv2.medianBlur(np.clip(2 * reached, 0, 255).astype(np.uint8), window) / np.float32(2)
    smooth = cv2.resize(cv2.GaussianBlur(median, (0, 0), 2), difference.shape[::-1])
    return np.clip(smooth, 1, max(1.0, 2 * float(np.median(smooth))))  # where many grains lie, most blocks show them


def _sharpness(difference: np.ndarray, min_contrast: np.ndarray) -> float:
    """Sum over what stands out on one side of the background: the square root of its area by its rim's steepness."""
    objects = difference > min_contrast
    if objects.mean() < MIN_COVER:
        return 0.0
    # the outline of what reaches half of the side's contrast: steep around a grain, gentle around a shadow
    contrast = np.median(difference[objects])
    solid = (difference > np.maximum(min_contrast, contrast / 2)).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(solid, connectivity=4)
    rim = (solid - cv2.erode(solid, np.ones((3, 3), np.uint8))) > 0
    steep = np.hypot(cv2.Sobel(difference, cv2.CV_32F, 1, 0), cv2.Sobel(difference, cv2.CV_32F, 0, 1))
    counts, sums = (np.bincount(labels[rim], weight, len(stats)) for weight in (None, steep[rim]))
    return float((np.sqrt(stats[1:, cv2.CC_STAT_AREA]) * sums[1:] / np.maximum(counts[1:], 1)).sum())
