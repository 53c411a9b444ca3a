"""Six varieties that no model knows, photographed on trays by a camera of its own: what a user brings.

Each is made of another variety's single grains, stretched, resized and recoloured by the factors of `KINDS`. Its trays
are laid on creased green cloth and photographed with one scale, white balance and blur; light, focus and noise change
a little from photograph to photograph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from rice_lib.contract.features import principal_moments
from rice_lib.data.synthetic import draw
from support.trays import Setting, compose


@dataclass(frozen=True)
class Kind:
    """A variety: whose grains it is made of, factors of their length and width, and gains of red, green and blue."""

    of: str
    length: float
    width: float
    gains: tuple[float, float, float]


KINDS = {
    "Amber round": Kind("Karacadag", 1.15, 1.05, (1.0, 0.88, 0.62)),
    "Black": Kind("Jasmine", 1.30, 1.25, (0.52, 0.42, 0.50)),
    "Golden long": Kind("Basmati", 0.92, 1.15, (1.0, 0.93, 0.70)),
    "Pearl": Kind("Arborio", 0.90, 0.95, (0.97, 1.0, 1.0)),
    "Red": Kind("Ipsala", 0.78, 0.68, (0.85, 0.52, 0.44)),
    "White long": Kind("Basmati", 1.05, 0.95, (0.98, 1.0, 0.96)),
}
WARM = (1.06, 1.0, 0.82)
"""White balance of the camera: gains of red, green and blue."""


def altered(image: np.ndarray, kind: Kind) -> np.ndarray:
    """Stretch a grain, uint8 RGB on black, along and across its own axis, and recolour it: the same shape."""
    moments = cv2.moments((image.max(axis=2) > 60).astype(np.uint8), binaryImage=True)
    middle = np.array([moments["m10"], moments["m01"]]) / moments["m00"]
    *_, angle = principal_moments(*(moments[name] / moments["m00"] for name in ("mu20", "mu02", "mu11")))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.diag([kind.length, kind.width]) @ turn.T
    side = image.shape[0] + 60  # room for what grows
    shift = np.full(2, side / 2) - matrix @ middle
    larger = cv2.warpAffine(image, np.column_stack([matrix, shift]), (side, side))
    return (larger * np.array(kind.gains)).round().astype(np.uint8)


def generated(variety: str, number: int) -> np.ndarray:
    """Draw a grain of the generator."""
    return draw(variety, number, 10**6, 29)


def write_trays(
    folder: Path,
    grain_of: Callable[[str, int], np.ndarray],
    *,
    trays: int,
    grains: int,
    start: int = 0,
    shape: tuple[int, int] = (1400, 1800),
) -> None:
    """Write `<variety>/IMG_<number>.jpg`, so many photographs a variety, numbered from `start`, of so many grains each.

    `grain_of` gives an image of a single grain by its variety and number from 1; photographs of another number show
    other grains.
    """
    for place, (name, kind) in enumerate(KINDS.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for tray in range(start, start + trays):
            random = np.random.default_rng([place, tray])
            first = 1 + (tray * len(KINDS) + place) * grains
            own = [(altered(grain_of(kind.of, first + k), kind), 0) for k in range(grains)]
            setting = Setting(
                "cloth",
                scale=0.8,
                uneven=random.uniform(0.05, 0.2),
                shadow=random.uniform(0.2, 0.4),
                noise=random.uniform(1.5, 3.0),
                shape=shape,
            )
            light = np.array(WARM) * random.uniform(0.93, 1.0) * random.uniform(0.985, 1.015, 3)
            image = compose(own, setting, int(random.integers(2**31))).image
            image = cv2.GaussianBlur(image, (0, 0), random.uniform(0.7, 1.1)) * light
            photograph = Image.fromarray(image.clip(0, 255).astype(np.uint8))
            photograph.save(folder / name / f"IMG_{100 * place + tray:04}.jpg", quality=88)
