"""Trays composed from photographs of single grains, so that every grain's place, outline and variety are known.

A grain is cut from its black background, turned, and laid with others on a background of one colour: apart, or in twos
and threes that touch side by side, end to end, or crossing slightly. The background has texture and uneven light;
grains cast soft shadows; the camera adds blur, noise and JPEG.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import cv2
import numpy as np

from rice_lib.backends.predictor import Predictor
from rice_lib.contract.decision import Decision
from rice_lib.contract.features import COLUMN
from rice_lib.data.synthetic import VARIETIES, draw
from rice_lib.tray.find import Grain, contours

BACKGROUNDS = {
    # RGB of the background, and what the exposure makes of a grain's brightness
    "dark": ((16, 16, 18), 1.0),
    "blue": ((70, 105, 165), 1.0),
    "light": ((150, 156, 160), 1.0),
    "paper": ((249, 248, 244), 0.72),
    "cloth": ((45, 100, 62), 1.0),
    "metal": ((132, 133, 135), 1.0),
    "wood": ((178, 152, 124), 1.0),
}
GAP = 6
"""Pixels at the training scale that grains lying apart keep between them."""


@dataclass(frozen=True)
class Setting:
    """How a tray is laid and photographed."""

    background: str = "dark"
    touching: float = 0.0
    """Share of the grains that lie in touching twos and threes."""
    manners: tuple[str, ...] = ("side", "end", "cross")
    scale: float = 1.0
    """Pixels of the tray to one of the training images' files."""
    uneven: float = 0.15
    """The light falls off by this share from one side to the other."""
    shadow: float = 0.35
    """Darkness of the shadows, 0 to 1."""
    texture: float = 3.0
    """Standard deviation of the background's texture, grey levels."""
    noise: float = 2.0
    """Standard deviation of the sensor's noise, grey levels."""
    quality: int = 85
    """Of the JPEG."""
    shape: tuple[int, int] = (1800, 2400)
    """Rows and columns at the training scale."""
    card: int = 0
    """Rows at the top that a ruler takes."""
    physical: tuple[float, ...] | None = None
    """One factor a grain: its size on the tray against its size in its own photograph. None: 1 for all."""


@dataclass
class Tray:
    """A composed photograph and its truth."""

    image: np.ndarray
    """uint8 RGB `[H, W, 3]`."""
    truth: np.ndarray
    """int32 `[H, W]`: number of the grain that a pixel shows, from 1; 0 is background."""
    labels: list[int]
    """Class number of each grain; the first is grain number 1."""
    setting: Setting = field(default_factory=Setting)


@dataclass
class Piece:
    """A grain cut out: float32 premultiplied RGB `[h, w, 3]` and its cover `[h, w]`, and its class number."""

    rgb: np.ndarray
    cover: np.ndarray
    label: int

    @property
    def solid(self) -> np.ndarray:
        """Where the grain is, bool."""
        return self.cover > 0.5


Heap = list[tuple[Piece, int, int]]
"""Grains that lie together, each with the row and column of its box."""


@cache
def synthetic_grains(count: int, seed: int = 83) -> tuple[tuple[np.ndarray, int], ...]:
    """Generated grains of all varieties in turn: (uint8 RGB `[250, 250, 3]`, class number)."""
    return tuple((draw(VARIETIES[i % 5], i // 5 + 1, 1000, seed), i % 5) for i in range(count))


def compose(grains: Sequence[tuple[np.ndarray, int]], setting: Setting, seed: int = 0) -> Tray:
    """Lay grains on a tray and photograph it.

    Args:
        grains: images of single grains on black, uint8 RGB, with their class numbers.
        setting: how.
        seed: of everything random.

    Raises:
        ValueError: they do not fit on the tray.
    """
    random = np.random.default_rng(seed)
    factors = setting.physical or (1.0,) * len(grains)
    pieces = [_cut(image, label, factor, random) for (image, label), factor in zip(grains, factors, strict=True)]
    height, width = setting.shape
    rgb = np.zeros((height, width, 3), np.float32)
    cover = np.zeros((height, width), np.float32)
    truth = np.zeros((height, width), np.int32)
    taken = np.zeros((height, width), np.uint8)
    labels: list[int] = []
    # large heaps first: they find a place while there is room
    for layer, numbers, members in sorted(map(_lay, _heaps(pieces, setting, random)), key=lambda h: -h[1].size):
        row, column = _place(taken, numbers > 0, random)
        h, w = numbers.shape
        place = (slice(row, row + h), slice(column, column + w))
        rgb[place] = layer[..., :3] + rgb[place] * (1 - layer[..., 3:])
        cover[place] = np.maximum(cover[place], layer[..., 3])
        truth[place] = np.where(numbers > 0, numbers + len(labels), truth[place])
        taken[place] |= numbers > 0
        labels += members
    image, truth = _photograph((rgb, cover, truth), setting, random)
    return Tray(image, truth, labels, setting)


def _cut(image: np.ndarray, label: int, factor: float, random: np.random.Generator) -> Piece:
    """One grain, turned by any angle."""
    solid = (image.max(axis=2) > 60).astype(np.uint8)
    count, parts, stats, _ = cv2.connectedComponentsWithStats(solid)
    solid = (parts == 1 + np.argmax(stats[1:, cv2.CC_STAT_AREA])).astype(np.float32) if count > 1 else solid
    side = int(np.hypot(*image.shape[:2]) * factor) + 4
    turn = cv2.getRotationMatrix2D(((image.shape[1] - 1) / 2, (image.shape[0] - 1) / 2), random.uniform(0, 360), factor)
    turn[:, 2] += side / 2 - (np.array([image.shape[1], image.shape[0]]) - 1) / 2
    flags = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    rgb = cv2.warpAffine(image.astype(np.float32) * solid[..., None], turn, (side, side), flags=flags)
    cover = cv2.warpAffine(solid.astype(np.float32), turn, (side, side), flags=flags)
    rows, columns = np.flatnonzero(cover.max(axis=1) > 0), np.flatnonzero(cover.max(axis=0) > 0)
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    return Piece(rgb[box], cover[box], label)


def _heaps(pieces: list[Piece], setting: Setting, random: np.random.Generator) -> list[Heap]:
    """Grains alone, and those that touch."""
    left = list(random.permutation(len(pieces)))
    touching = round(setting.touching * len(pieces))
    heaps = []
    while touching >= 2 and len(left) >= 2:
        size = 3 if touching >= 3 and len(left) >= 3 and random.random() < 0.3 else 2
        members = [pieces[left.pop()] for _ in range(size)]
        heaps.append(_touch(members, setting.manners, random))
        touching -= size
    return heaps + [[(pieces[i], 0, 0)] for i in left]


def _touch(pieces: list[Piece], manners: tuple[str, ...], random: np.random.Generator) -> Heap:
    """Slide each grain against the one before until they touch."""
    members = [(pieces[0], 0, 0)]
    for loose in pieces[1:]:
        other, top, left = members[-1]
        manner = manners[random.integers(len(manners))]
        lean = random.uniform(25, 90) if manner == "cross" else random.uniform(-8, 8)
        along = _direction(other.solid)
        piece = _turned(loose, along + lean - _direction(loose.solid))
        # side by side: slide across the other's axis; end to end: along it
        way = np.radians(along + (0 if manner == "end" else 90) + random.uniform(-12, 12))
        way += np.pi * random.integers(2)
        sink = random.uniform(3, 7) if manner == "cross" else random.uniform(0.5, 2.5)
        middle = np.array([top, left]) + (np.array(other.cover.shape) - np.array(piece.cover.shape)) / 2
        members.append((piece, *_slide(members, piece, middle, way, sink)))
    return members


def _direction(solid: np.ndarray) -> float:
    """Degrees of the long axis, x towards y."""
    moments = cv2.moments(solid.astype(np.uint8), binaryImage=True)
    return float(np.degrees(0.5 * np.arctan2(2 * moments["mu11"], moments["mu20"] - moments["mu02"])))


def _turned(piece: Piece, degrees: float) -> Piece:
    height, width = piece.cover.shape
    side = int(np.hypot(height, width)) + 4
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), -degrees, 1)
    turn[:, 2] += side / 2 - (np.array([width, height]) - 1) / 2
    rgb, cover = (cv2.warpAffine(layer, turn, (side, side)) for layer in (piece.rgb, piece.cover))
    rows, columns = np.flatnonzero(cover.max(axis=1) > 0), np.flatnonzero(cover.max(axis=0) > 0)
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    return replace(piece, rgb=rgb[box], cover=cover[box])


def _slide(members: Heap, piece: Piece, middle: np.ndarray, way: float, sink: float) -> tuple[int, int]:
    """Where a grain that comes from afar along `way` meets the others, and `sink` pixels further."""
    step = np.array([np.sin(way), np.cos(way)])

    def meets(distance: float) -> bool:
        row, column = np.round(middle + distance * step).astype(int)
        return any(_overlap(piece.solid, m.solid, (r - row, c - column)) for m, r, c in members)

    distance = 500.0
    while distance > 0 and not meets(distance):
        distance -= 1
    row, column = np.round(middle + max(0.0, distance - sink) * step).astype(int)
    return int(row), int(column)


def _overlap(a: np.ndarray, b: np.ndarray, offset: tuple[int, int]) -> bool:
    """Whether two masks share a pixel, the second one lying `offset` (rows, columns) from the first."""
    low = max(0, offset[0]), max(0, offset[1])
    high = min(a.shape[0], offset[0] + b.shape[0]), min(a.shape[1], offset[1] + b.shape[1])
    if low[0] >= high[0] or low[1] >= high[1]:
        return False
    one = a[low[0] : high[0], low[1] : high[1]]
    return bool((one & b[low[0] - offset[0] : high[0] - offset[0], low[1] - offset[1] : high[1] - offset[1]]).any())


def _lay(heap: Heap) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """A heap as one layer: float32 premultiplied RGBA, int32 numbers from 1, class numbers."""
    top, left = min(r for _, r, _ in heap), min(c for _, _, c in heap)
    height = max(r + p.cover.shape[0] for p, r, _ in heap) - top
    width = max(c + p.cover.shape[1] for p, _, c in heap) - left
    layer, numbers = np.zeros((height, width, 4), np.float32), np.zeros((height, width), np.int32)
    for number, (piece, row, column) in enumerate(heap, start=1):
        h, w = piece.cover.shape
        place = (slice(row - top, row - top + h), slice(column - left, column - left + w))
        own = np.dstack([piece.rgb, piece.cover])
        # a grain that lies upon another has a dark crease around it: light does not reach there
        crease = cv2.GaussianBlur(piece.cover, (0, 0), 2.0)
        under = layer[place]
        under[..., :3] *= 1 - 0.45 * crease[..., None]
        layer[place] = own + under * (1 - piece.cover[..., None])
        numbers[place][piece.solid] = number
    return layer, numbers, [piece.label for piece, _, _ in heap]


def _place(taken: np.ndarray, solid: np.ndarray, random: np.random.Generator) -> tuple[int, int]:
    """A free place, `GAP` from every other grain and from the border."""
    grown = cv2.dilate(np.pad(solid.astype(np.uint8), GAP), np.ones((2 * GAP + 1, 2 * GAP + 1), np.uint8)) > 0
    height, width = grown.shape
    for _ in range(4000):
        row = int(random.integers(0, taken.shape[0] - height))
        column = int(random.integers(0, taken.shape[1] - width))
        if not (taken[row : row + height, column : column + width] & grown).any():
            return row + GAP, column + GAP
    raise ValueError("the tray is too small for so many grains")


def _photograph(
    layers: tuple[np.ndarray, np.ndarray, np.ndarray], setting: Setting, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The picture and the truth of grains laid out: premultiplied colours, their cover, and the numbers."""
    rgb, cover, truth = layers
    colour, exposure = BACKGROUNDS[setting.background]
    height, width = cover.shape
    background = np.empty((height, width, 3), np.float32)
    background[:] = colour
    grit = setting.texture * random.standard_normal((height // 3, width // 3), np.float32)
    background += cv2.resize(grit, (width, height))[..., None]
    if setting.background in SURFACES:
        background = SURFACES[setting.background](background, random)
    if setting.card:  # with its edge and the lines of a ruler
        background[: setting.card] = 235
        background[setting.card // 2 : setting.card, ::12] = 30
    shift = np.float32([[1, 0, 9], [0, 1, 7]])
    shadow = cv2.GaussianBlur(cv2.warpAffine(cover, shift, (width, height)), (0, 0), 8)
    image = exposure * rgb + background * (1 - setting.shadow * shadow)[..., None] * (1 - cover[..., None])
    way = random.uniform(0, 2 * np.pi)
    x, y = np.linspace(-0.5, 0.5, width, dtype=np.float32), np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None]
    image *= (1 - setting.uneven * (0.5 + x * np.cos(way) + y * np.sin(way)).clip(0, 1))[..., None]
    if setting.scale != 1:
        size = (round(width * setting.scale), round(height * setting.scale))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if setting.scale < 1 else cv2.INTER_CUBIC)
        truth = cv2.resize(truth.astype(np.float32), size, interpolation=cv2.INTER_NEAREST).astype(np.int32)
    image = cv2.GaussianBlur(image, (0, 0), 0.6) + setting.noise * random.standard_normal(image.shape, np.float32)
    pixels = image.clip(0, 255).round().astype(np.uint8)
    data = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, setting.quality])[1]
    return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].copy(), truth


def with_coin(image: np.ndarray, diameter: float) -> np.ndarray:
    """A tray with a strip of blue card below it, on which a disc lies; diameter in pixels."""
    height, width = image.shape[:2]
    strip = np.full((round(1.5 * diameter), width, 3), BACKGROUNDS["blue"][0], np.uint8)
    picture = np.concatenate([image, strip])
    centre = (round(diameter), height + round(0.65 * diameter))
    return cv2.circle(picture, centre, round(diameter / 2), (230, 215, 150), -1, cv2.LINE_AA)


def _cloth(background: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Creases that light and shade follow, and a weave."""
    height, width = background.shape[:2]
    coarse = cv2.resize(random.standard_normal((5, 6), np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    weave = 0.05 * np.sin(2 * np.pi * x / 5) * np.sin(2 * np.pi * y / 5)
    ridge = 0.15 * np.sin((x + 2 * y) / 60 + 2 * coarse)
    return background * (1 + (0.3 * coarse).clip(-0.5, 0.6) + ridge + weave)[..., None].clip(0.2, 2)


def _metal(background: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Stains and thin bright scratches, and a lens's dark corners."""
    height, width = background.shape[:2]
    scratches = np.zeros((height, width), np.float32)
    for _ in range(400):
        start, way = random.uniform(0, (width, height)), random.uniform(0, 2 * np.pi)
        end = start + random.uniform(20, 160) * np.array([np.cos(way), np.sin(way)])
        points = [tuple(np.round(point).astype(int).tolist()) for point in (start, end)]
        cv2.line(scratches, *points, random.uniform(30, 70), int(random.integers(1, 3)), cv2.LINE_AA)
    stains = cv2.resize(random.standard_normal((height // 25, width // 25), np.float32), (width, height))
    scratches += 9 * stains
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    return (background + scratches[..., None]) * (1 - 0.6 * ((x**2 + y**2) / 2) ** 2)[..., None]


def _wood(background: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Lines along the wood, as strong as the grains' contrast."""
    height, width = background.shape[:2]
    lines = cv2.resize(random.standard_normal((height // 4, 6), np.float32), (width, height))
    return background + 32 * lines[..., None]


SURFACES = {"cloth": _cloth, "metal": _metal, "wood": _wood}
"""What makes a background uneven, from float32 RGB `[H, W, 3]` to the same."""


def matches(truth: np.ndarray, found: np.ndarray, at_least: float = 0.5) -> dict[int, int]:
    """One-to-one matches of true grains (keys) to found ones whose intersection over union is at least 0.5.

    Args:
        truth: int32 `[H, W]`, 0 is background.
        found: the same shape, numbered on its own.
        at_least: from 0.5 on, no grain can match two.
    """
    true_area, found_area = np.bincount(truth.ravel()), np.bincount(found.ravel())
    both = np.bincount(truth.ravel().astype(np.int64) * len(found_area) + found.ravel())
    pairs = np.flatnonzero(both)
    result = {}
    for pair in pairs:
        one, other = divmod(int(pair), len(found_area))
        union = true_area[one] + found_area[other] - both[pair]
        if one and other and both[pair] / union >= at_least:
            result[one] = other
    return result


def numbered(grains: list[Grain], shape: tuple[int, ...]) -> np.ndarray:
    """Found grains as int32 `[H, W]`: the number of the grain, from 1, at each of its pixels; 0 elsewhere."""
    numbers = np.zeros(shape, np.int32)
    for number, grain in enumerate(grains, start=1):
        cv2.fillPoly(numbers, [grain.outline], number)
    return numbers


def grain_of(axes: tuple[float, float], angle: float = 20.0, centre: tuple[float, float] = (300.0, 250.0)) -> Grain:
    """An ellipse of those full axes in an image of 600 x 500, its long one `angle` degrees counter-clockwise."""
    solid = np.zeros((500, 600), np.uint8)
    cv2.ellipse(solid, (centre, axes, -angle), 1, -1)
    return Grain.of(contours(solid)[0])


class BySize(Predictor):
    """Classifies a grain by its area in the frame: a model that knows nothing but size, and needs no training."""

    labels = VARIETIES
    name, max_batch = "size", 64
    # of the model's frame: Jasmine, Karacadag, Arborio, Basmati, Ipsala by growing area
    LIMITS = (("Jasmine", 5000), ("Karacadag", 5600), ("Arborio", 6700), ("Basmati", 8500), ("Ipsala", 1e9))

    def __init__(self, decision=None) -> None:
        self.decision = decision or Decision()
        self.seen: list[np.ndarray] = []
        self.predicted: list[str] = []

    def _forward(self, pixels: np.ndarray) -> np.ndarray:
        self.seen += list(pixels)
        areas = (pixels.max(axis=3) > 60).sum(axis=(1, 2))
        predicted = [next(name for name, limit in self.LIMITS if area < limit) for area in areas]
        self.predicted += predicted
        return np.array([[8.0 if name == own else 0.0 for name in self.labels] for own in predicted], np.float32)


class RejectsLarge:
    """A rejection rule that rejects what fills more than a fifth of the frame."""

    def reasons(self, logits: np.ndarray, features: np.ndarray) -> list[str | None]:
        return ["unlike the training images (its size)" if row[COLUMN["area"]] > 0.2 else None for row in features]


class RejectsAll:
    """A rejection rule that rejects everything."""

    def reasons(self, logits: np.ndarray, features: np.ndarray) -> list[str | None]:
        return ["unlike the training images (its length)"] * len(features)
