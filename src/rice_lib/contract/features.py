"""Sixteen features of an image: is there one grain, whole, on a dark background, and what does it look like?

A feature does not change when the grain is rotated or mirrored, and changes little with its scale. The rejection rule
(`rice_lib.contract.decision`) compares them with their values on images of rice. They are computed from every second
pixel of every second row in numpy alone, in the threads that decode.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np

BACKGROUND_MAX = 40
"""A black background is never brighter than this (0-255, brightest channel), a grain is. In the public set the
background stays below 20, JPEG's noise included."""

MARGIN, DARK_MAX = 30, 90
"""Another dark background, whose rim has a median up to `DARK_MAX`, may be this much brighter than that median."""

OBJECT_ABOVE = 40
"""What is this much brighter than the background may be is counted as an object: the ripples that JPEG leaves around a
grain on black, seen above 40 at quality 75, do not count."""

STEP = 2
"""Every `STEP`-th pixel is used, across and down."""

RIM = 2
"""Width of the rim that must be background, in sampled pixels."""

DIRECTIONS = 16
"""Directions over half a turn in which the extent is taken, for the area of the convex hull."""

CORE = 0.64
"""Colours are measured in the inner part of the ellipse, this share of its area: without the outline, which is half
background."""

SMALLEST = 16
"""An object of fewer sampled pixels than this gets no further features."""

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (ITU-R BT.601)."""

FEATURES = (
    *("rim", "area", "objects", "solidity", "fill", "length", "width", "end weight", "side weight", "lopsidedness"),
    *("luma", "red less green", "blue less green", "luma spread", "hue spread", "grain"),
)
"""Columns of what `extract_features` gives. "Inside" is what is brighter than the background may be
(`background_level`); the core is what of it lies in the inner ellipse (`CORE`).

rim: share of the rim that is inside.
area: share of the image that is inside.
objects: Euler number (objects less holes, 4-connected) of what is `OBJECT_ABOVE` brighter still.
solidity: area inside / area of its convex hull.
fill: area inside / area of the ellipse with the same second moments; lower where there are several things, or holes.
length, width: natural logarithms of that ellipse's axes, in sampled pixels.
end weight, side weight: kurtosis along and across it (2 for an ellipse, 1.8 for a bar).
lopsidedness: root of the summed squares of the skewness along and across.
luma, red less green, blue less green: means in the core, grey levels.
luma spread: ln(1 + standard deviation of luma in the core).
hue spread: ln(1 + joint standard deviation of red less green and blue less green there).
grain: ln(1 + mean step of luma between neighbours across and down, both in the core)."""

COLUMN: dict[str, int] = {name: number for number, name in enumerate(FEATURES)}
"""A feature's name to its column."""


def extract_features(pixels: np.ndarray) -> np.ndarray:
    """Compute the features of one image, uint8 RGB `[height, width, 3]`, 224 x 224 under the image contract.

    Returns float32 `[len(FEATURES)]`, all finite; from `objects` on 0 where fewer than `SMALLEST` pixels are inside.
    """
    red, green, blue = (np.ascontiguousarray(pixels[::STEP, ::STEP, channel]) for channel in range(3))
    level = np.maximum(np.maximum(red, green), blue)
    rim = _rim(level)
    background = _background_of(rim)
    inside = np.flatnonzero(level > background)
    found = [np.count_nonzero(rim > background) / rim.size, inside.size / level.size]
    if inside.size < SMALLEST:
        return np.array(found + [0.0] * (len(FEATURES) - 2), np.float32)
    columns, rows = (place[inside] for place in _places(*level.shape))
    found += [_euler_number(level > background + OBJECT_ABOVE), inside.size / _hull_area(columns, rows)]
    shape, core = _ellipse(columns, rows)
    inside = inside[core]
    colours = (channel.ravel()[inside].astype(np.float32) for channel in (red, green, blue))
    found += [*shape, *_colours(inside, level.shape[1], *colours)]
    return np.array(found, np.float32)


def background_level(brightest: np.ndarray) -> int:
    """Find the grey level that no pixel of an image's background exceeds; what does is grain.

    Takes the brightest channel, uint8 `[height, width]`, and reads what the rejection rule reads of it: so the rule,
    the explanation and the ten features draw the same line.
    """
    return _background_of(_rim(brightest[::STEP, ::STEP]))


def _background_of(rim: np.ndarray) -> int:
    level = int(np.partition(rim, rim.size // 2)[rim.size // 2]) + MARGIN
    return level if BACKGROUND_MAX < level <= DARK_MAX + MARGIN else BACKGROUND_MAX


def _rim(brightest: np.ndarray) -> np.ndarray:
    """Take the pixels of the rim, the corners' twice."""
    sides = (brightest[:RIM], brightest[-RIM:], brightest[:, :RIM], brightest[:, -RIM:])
    return np.concatenate([side.ravel() for side in sides])


def _euler_number(mask: np.ndarray) -> float:
    """Count objects less holes, 4-connected: pixels less their joints, plus the squares that four joints close."""
    bits = mask.view(np.uint8)
    across, down = bits[:, 1:] & bits[:, :-1], bits[1:] & bits[:-1]
    squares = across[1:] & across[:-1]
    pixels, rows, columns, closed = map(np.count_nonzero, (bits, across, down, squares))
    return float(pixels - rows - columns + closed)


def _hull_area(columns: np.ndarray, rows: np.ndarray) -> float:
    """Compute the area in pixels of the smallest polygon around pixels in reading order, its `2 * DIRECTIONS` sides of
    fixed directions."""
    turns = np.flatnonzero(rows[1:] != rows[:-1])
    # the first and the last pixel of each row: no other can lie on the hull
    ends = np.concatenate([[0], turns + 1, turns, [rows.size - 1]])
    normals, pixel, sides = _polygon()
    reach = normals @ np.stack([columns[ends], rows[ends]])
    support = np.concatenate([reach.max(axis=1) + pixel, pixel - reach.min(axis=1)])
    return float(support @ sides @ support) / 2


def _ellipse(columns: np.ndarray, rows: np.ndarray) -> tuple[tuple[float, ...], np.ndarray]:
    """Compute fill, length, width, end weight, side weight and lopsidedness of pixels at float32 `columns` and `rows`
    `[n]`, and which of them are in the core, bool `[n]`."""
    count = columns.size
    x, y = columns - columns.sum() / count, rows - rows.sum() / count
    xx, yy, xy = (float(product) / count for product in (x @ x, y @ y, x @ y))
    major, minor, turn = principal_moments(xx, yy, xy)
    cosine, sine = math.cos(turn), math.sin(turn)
    along, across = cosine * x + sine * y, cosine * y - sine * x
    along2, across2 = along * along, across * across
    ends, sides = (float(v @ v) / count / size**2 for v, size in ((along2, major), (across2, minor)))
    skew = (float(along2 @ along) / count / major**1.5, float(across2 @ across) / count / minor**1.5)
    length, width = 4 * math.sqrt(major), 4 * math.sqrt(minor)
    fill = count / (math.pi / 4 * length * width)
    # half an axis is two standard deviations of the pixels along it
    core = along2 * (1 / (4 * CORE * major)) + across2 * (1 / (4 * CORE * minor)) <= 1
    return (fill, math.log(length), math.log(width), ends, sides, math.hypot(*skew)), core


def principal_moments(xx: float, yy: float, xy: float) -> tuple[float, float, float]:
    """Compute the second moments of pixels along their long axis and across it, and that axis's angle.

    An ellipse with these moments has axes of four times their square roots. The angle is in radians, from x towards y.
    """
    middle, spread = (xx + yy) / 2, math.hypot((xx - yy) / 2, xy)
    # a pixel is a square, not a point: 1/12 is its own second moment
    return middle + spread + 1 / 12, max(middle - spread, 0) + 1 / 12, math.atan2(2 * xy, xx - yy) / 2


def _colours(places: np.ndarray, width: int, red: np.ndarray, green: np.ndarray, blue: np.ndarray) -> tuple[float, ...]:
    """Compute luma to grain of pixels, float32 `[n]` a channel, at `places` in the reading order of an image `width`
    pixels wide; zeros of none."""
    if places.size == 0:
        return (0.0,) * 6
    luma = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
    (level, light), (red_less, reddish), (blue_less, bluish) = map(_moments, (luma, red - green, blue - green))
    steps = _mean_step(places, luma, width)
    return level, red_less, blue_less, *map(math.log1p, (math.sqrt(light), math.sqrt(reddish + bluish), steps))


def _mean_step(places: np.ndarray, values: np.ndarray, width: int) -> float:
    """Compute the mean absolute difference between neighbours, across and down; 0 where there are none."""
    # a row more than the image has, so that the last one's neighbours below are found, and are outside
    spread = np.full(int(places[-1]) + width + 1, np.nan, np.float32)
    spread[places] = values
    steps = np.abs(np.concatenate([spread[places + 1], spread[places + width]]) - np.concatenate([values, values]))
    steps = steps[~np.isnan(steps)]  # NaN: the neighbour is outside
    return float(steps.sum()) / max(steps.size, 1)


def _moments(values: np.ndarray) -> tuple[float, float]:
    """Compute mean and variance."""
    mean = float(values.sum()) / values.size
    centred = values - np.float32(mean)
    return mean, float(centred @ centred) / values.size


@cache
def _places(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Give column and row of every pixel in reading order, float32 `[height * width]` each."""
    rows, columns = np.divmod(np.arange(height * width), width)
    return columns.astype(np.float32), rows.astype(np.float32)


@cache
def _polygon() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give, for `_hull_area`, normals `[DIRECTIONS, 2]`, how far a pixel reaches along each beyond its middle, and the
    matrix `[2 * DIRECTIONS, 2 * DIRECTIONS]` from distances of the sides to their lengths."""
    angle = np.arange(DIRECTIONS) * np.pi / DIRECTIONS
    normals = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    step = np.pi / DIRECTIONS
    neighbours = np.roll(np.eye(2 * DIRECTIONS), 1, axis=0) + np.roll(np.eye(2 * DIRECTIONS), -1, axis=0)
    sides = (neighbours - 2 * np.cos(step) * np.eye(2 * DIRECTIONS)) / np.sin(step)
    return normals, np.abs(normals).sum(axis=1) / 2, sides
