"""Generate grains: images of the five varieties without a photograph, for a first run and for tests.

Each grain is drawn from distributions measured on 10,000 images of the public set (the axes, colours and spread of
`shape_features`, scaled to the files' 250 pixels; its two capture sessions of Jasmine apart). An image depends on the
seed, its variety and its number only, so any number of processes makes the same files.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from rice_lib.common.files import atomic_path
from rice_lib.data.decoding import over_images

VERSION = 1  # raised whenever the same seed would give other images: images of another version are made again
VARIETIES = ("Arborio", "Basmati", "Ipsala", "Jasmine", "Karacadag")  # those of the public set
SIDE = 250
SECOND_SESSION = 0.78  # Jasmine numbered above this share of its images is of the second session, as in the public set
COPY_EVERY = 50
"""Every 50th Ipsala is a byte-for-byte copy of one shortly before it: the public set has 297 such pairs in 15,000."""
BROKEN_SHARE = 0.02
JPEG_QUALITY = 75  # by the quantisation tables of the public set's files, which are 4:2:0 as well
_EDGE = 1.0  # pixels by which JPEG's blur of the edge makes a drawn axis measure longer than it is
_TEXTURE = (32, 64)


@dataclass(frozen=True)
class Look:
    """Distribution of one variety's grains: means and standard deviations; pixels of 250, grey levels of 255."""

    major: tuple[float, float]
    minor: tuple[float, float]
    axes_correlation: float
    colour: tuple[float, float, float]
    colour_sd: tuple[float, float, float]
    correlation_rg: float
    correlation_gb: float
    spread: tuple[float, float]  # standard deviation of luma inside a grain
    chalk: float  # weight of the chalky core in the texture, against 1 for all else
    bluntness: float  # exponent of the superellipse: 2 is an ellipse, more has blunter ends
    offset: float  # mean distance of the grain's middle from the image's
    germ: float  # share of grains with a yellow patch


LOOKS = {
    "Arborio": Look(
        (138.7, 8.1), (71.5, 4.7), 0.45, (216, 216, 222), (10.4, 10.1, 10.1), 0.99, 0.95,
        (14.1, 2.4), 1.5, 2.2, 3.3, 0.02),
    "Basmati": Look(
        (203.3, 15.1), (49.5, 3.7), 0.13, (218, 220, 240), (6.0, 5.5, 6.0), 0.76, 0.33,
        (11.5, 2.1), 0.3, 2.15, 4.4, 0.08),
    "Ipsala": Look(
        (197.9, 11.3), (92.9, 6.2), 0.48, (237, 238, 233), (5.3, 6.3, 7.0), 0.97, 0.95,
        (5.9, 1.5), 0.3, 2.3, 4.7, 0.08),
    "Jasmine": Look(
        (146.9, 7.0), (48.4, 2.3), -0.43, (211, 213, 223), (10.3, 9.7, 10.8), 0.92, 0.91,
        (6.8, 1.7), 0.3, 2.2, 4.0, 0.02),
    "Jasmine, second session": Look(
        (197.5, 12.8), (63.5, 4.2), 0.18, (212, 235, 240), (10.2, 10.2, 9.0), 0.96, 0.96,
        (7.2, 2.2), 0.3, 2.2, 4.7, 0.02),
    "Karacadag": Look(
        (115.8, 5.5), (73.4, 3.6), 0.17, (208, 208, 229), (8.0, 7.9, 7.6), 0.97, 0.79,
        (11.7, 3.2), 1.2, 2.1, 2.8, 0.15),
}  # fmt: skip


def write_images(folder: Path, per_class: int, seed: int, workers: int | None = None) -> None:
    """Write `<Variety>/<Variety> (<number>).jpg`, numbers 1 to `per_class`."""
    wanted = list(itertools.product(VARIETIES, range(1, per_class + 1)))
    over_images(partial(_write, folder=folder, per_class=per_class, seed=seed), wanted, workers, "generate")


def _write(image: tuple[str, int], folder: Path, per_class: int, seed: int) -> None:
    variety, number = image
    with atomic_path(folder / variety / f"{variety} ({number}).jpg") as temporary:
        temporary.write_bytes(jpeg(variety, number, per_class, seed))


def original(variety: str, number: int, per_class: int) -> int:
    """Find the number of the image that an image is a copy of; its own where it is none."""
    behind = max(1, round(per_class * 100 / 15000))  # as far as in the public set of 15,000, in proportion
    behind += behind % COPY_EVERY == 0  # the original must not be a copy itself
    is_copy = variety == "Ipsala" and number % COPY_EVERY == COPY_EVERY // 2 and number > behind
    return number - behind if is_copy else number


def jpeg(variety: str, number: int, per_class: int, seed: int, looks: Mapping[str, Look] = LOOKS) -> bytes:
    """Draw one image and encode its file."""
    image = cv2.cvtColor(draw(variety, number, per_class, seed, looks), cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


def draw(variety: str, number: int, per_class: int, seed: int, looks: Mapping[str, Look] = LOOKS) -> np.ndarray:
    """Draw one grain, number 1 to `per_class` of a variety, with other `looks` on demand: uint8 RGB `[250, 250, 3]`."""
    number = original(variety, number, per_class)
    late = variety == "Jasmine" and number > SECOND_SESSION * per_class
    look = looks["Jasmine, second session" if late else variety]
    random = np.random.default_rng([seed, VARIETIES.index(variety), number])
    outline = _outline(look, random)
    one, other = random.normal(size=2)
    along = look.axes_correlation * one + np.sqrt(1 - look.axes_correlation**2) * other
    size = np.array([look.major[0] + look.major[1] * one, look.minor[0] + look.minor[1] * along]) - _EDGE
    angle = random.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    # from the grain's own coordinates, in which its half axes are 1, to the image's
    axes = turn @ np.diag(size / 2)
    points = outline @ axes.T
    # off the image's middle, but never so far that the grain is cut
    low, high = 2 - points.min(axis=0), SIDE - 3 - points.max(axis=0)
    place = (SIDE - 1) / 2 + random.normal(0, look.offset / np.sqrt(np.pi / 2), 2)
    middle = np.where(low < high, np.clip(place, low, high), (low + high) / 2)
    return _paint(look, points + middle, axes, middle, random)


def _outline(look: Look, random: np.random.Generator) -> np.ndarray:
    """Draw a closed outline, float `[120, 2]`, its long axis along x, its second moments those of the unit disc."""
    angle = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    exponent = max(1.7, look.bluntness + random.normal(0, 0.12))
    radius = (np.abs(np.cos(angle)) ** exponent + np.abs(np.sin(angle)) ** exponent) ** (-1 / exponent)
    # low waves, and finer ones that are weaker: no grain is regular
    waves = np.arange(3, 15)
    size, phase = random.normal(0, 0.045, len(waves)) / waves, random.uniform(0, 2 * np.pi, len(waves))
    radius *= 1 + size @ np.cos(waves[:, None] * angle + phase[:, None])
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    # the germ sat beside one tip: where it broke off, that side is cut back to a step
    start, depth, slope = random.normal(0.70, 0.06), random.uniform(0.5, 1.0), random.uniform(0.03, 0.08)
    y = np.minimum(y, 1.1 - depth / (1 + np.exp((start - x) / slope)))
    y += random.normal(0, 0.1) * x**2
    y *= 1 + random.normal(0, 0.08) * x
    if random.random() < BROKEN_SHARE:
        end = random.uniform(0.1, 0.7)
        x = np.minimum(x, end + 0.3 * y * random.uniform(-1, 1) + random.normal(0, 0.006, len(x)))
    points = np.stack([x, y if random.random() < 0.5 else -y], axis=1)
    return _whiten(points) if x.max() > 0.75 else points - [(x.max() + x.min()) / 2, 0]


def _whiten(points: np.ndarray) -> np.ndarray:
    """Move, turn and stretch an outline so that its second moments are those of the unit disc."""
    moments = cv2.moments(points.astype(np.float32))
    points = points - [moments["m10"] / moments["m00"], moments["m01"] / moments["m00"]]
    xx, yy, xy = (moments[key] / moments["m00"] for key in ("mu20", "mu02", "mu11"))
    tilt = 0.5 * np.arctan2(2 * xy, xx - yy) if xx - yy > 0.02 else 0.0
    turn = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
    variance = np.diag(turn @ np.array([[xx, xy], [xy, yy]]) @ turn.T)
    # a disc of radius 1 has the second moment 1/4 along each axis
    return points @ turn.T * (0.5 / np.sqrt(variance))


def _cover(points: np.ndarray) -> tuple[np.ndarray, tuple[slice, slice], np.ndarray]:
    """Find float32 shares of the pixels that an outline covers, their rows and columns, and the first one's (x, y)."""
    low = np.maximum(np.floor(points.min(axis=0)).astype(int) - 2, 0)
    high = np.minimum(np.ceil(points.max(axis=0)).astype(int) + 3, SIDE)
    width, height = high - low
    large = np.zeros((2 * height, 2 * width), dtype=np.uint8)
    # cv2 takes fixed-point coordinates, here with 4 bits after the point
    corners = np.round((2 * (points - low) + 0.5) * 16).astype(np.int32)
    cv2.fillPoly(large, [corners], 255, cv2.LINE_AA, shift=4)
    share = cv2.resize(large, (int(width), int(height)), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    # the originals were cut out by a threshold: their edges are harder than a camera's
    share = np.clip(2 * share - 0.7, 0, 1)
    return share, (slice(low[1], high[1]), slice(low[0], high[0])), low


def _paint(
    look: Look, points: np.ndarray, axes: np.ndarray, middle: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    image = np.repeat(random.integers(0, 4, (SIDE, SIDE, 1), dtype=np.uint8), 3, axis=2)
    share, place, low = _cover(points)
    middle = middle - low
    # lay the texture over the grain's own -1.1 to 1.1
    scale = np.diag([2.2 / (side - 1) for side in reversed(_TEXTURE)])
    matrix = np.column_stack([axes @ scale, middle - axes @ [1.1, 1.1]])
    texture = cv2.warpAffine(
        _texture(look, random), matrix, share.shape[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    mean, sd = cv2.meanStdDev(texture, mask=(share > 0.99).astype(np.uint8))
    luma = (texture - mean[0, 0]) * (max(2.0, random.normal(*look.spread)) / max(sd[0, 0], 1e-3))
    # the mean R, G, B: normal, neighbours correlated as measured
    red, green, blue = random.normal(size=3)
    green = look.correlation_rg * red + np.sqrt(1 - look.correlation_rg**2) * green
    blue = look.correlation_gb * green + np.sqrt(1 - look.correlation_gb**2) * blue
    grain = luma[:, :, None] + look.colour + look.colour_sd * np.array([red, green, blue])
    if random.random() < look.germ:
        grain += _germ(axes, middle, share.shape, random)
    image[place] += (np.clip(grain, 0, 250) * share[:, :, None]).astype(np.uint8)
    return image


def _texture(look: Look, random: np.random.Generator) -> np.ndarray:
    """Draw float32 `[32, 64]` over the grain's own -1.1 to 1.1."""
    height, width = _TEXTURE
    x, y = np.meshgrid(np.linspace(-1.1, 1.1, width), np.linspace(-1.1, 1.1, height))
    clouds = cv2.resize(random.normal(size=(4, 7)), (width, height), interpolation=cv2.INTER_CUBIC)
    streaks = cv2.resize(random.normal(size=(9, 2)), (width, height), interpolation=cv2.INTER_LINEAR)
    core_x, core_y = random.normal(0, 0.2, 2)
    core = np.exp(-(((x - core_x) / 0.55) ** 2) - ((y - core_y) / 0.45) ** 2)
    rim = np.minimum(x**2 + y**2, 1.3) ** 2
    grit = random.normal(size=(height, width))
    texture = 0.6 * clouds + 0.5 * streaks + 0.25 * grit - 0.8 * rim
    return (texture + 2.5 * look.chalk * random.uniform(0.2, 1.2) * core).astype(np.float32)


def _germ(axes: np.ndarray, middle: np.ndarray, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    """Draw float32 `[*shape, 3]`: what a yellow patch near one tip takes from each channel."""
    spot = axes @ [random.choice([-0.85, 0.85]), random.uniform(-0.3, 0.3)] + middle
    y, x = np.ogrid[: shape[0], : shape[1]]
    patch = np.exp(-((x - spot[0]) ** 2 + (y - spot[1]) ** 2) / (2 * random.uniform(4, 9) ** 2))
    taken = random.uniform(0.3, 1.0) * np.array([0.0, -15.0, -70.0], dtype=np.float32)
    return patch[:, :, None].astype(np.float32) * taken
