"""The quality sheet of a tray: sizes, shape, broken kernels, head rice, colour defects. It needs no model.

All grains are taken for one lot. A photograph from above shows neither thickness nor what lies inside a grain, and a
shape is no proof of a variety.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from rice_lib.common.interval import wilson
from rice_lib.contract.features import LUMA
from rice_lib.tray.find import Grain, mask_of

# Codex STAN 198-1995, section 2.2: head rice is at least this long, in units of the whole grains' mean length
BROKEN_BELOW = 0.75
# Codex STAN 198-1995, annex, option 1: least length / width of each class, to one decimal
SHAPES = ((3.0, "long"), (2.0, "medium"), (0.0, "short"))
LIMITS = "a photograph shows no thickness, moisture, age or aroma, and its shapes are no proof of a variety's identity"
MIN_FOR_COLOUR = 10  # fewer grains do not say what the usual colour is
MAX_CLIPPED = 0.1  # of the grains' pixels white in all channels: more hide what is yellow or chalky
MAX_CAST = 25.0  # CIELAB chroma of the white grains: beyond it the light, or the rice, has a colour of its own
WHITE = 215.0  # grey level that the white grains are brought to, as in the training images
OPAQUE = (1.12, 0.75)  # of the white grains' luma, and share of the grain that must exceed it (Codex: three quarters)

DEFECTS = {
    "black": "lightness L* below 45",
    "red": "a* above 8, hue below 70 degrees",
    "yellow": "b* above 18, hue of 70 to 110 degrees",
    "chalky": "three quarters of it 1.12 times as bright as the white grains",
}
"""Colour defects, the first that applies: CIELAB against the tray's own white grains, the least yellow third of all.
Where two thirds of the grains have a defect, it does not show."""


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval, None where there are too few grains for one."""

    value: float
    interval: tuple[float, float] | None

    def as_dict(self) -> dict[str, Any]:
        """Give it as it is written, four significant digits."""
        values = None if self.interval is None else [float(f"{end:.4g}") for end in self.interval]
        return {"value": float(f"{self.value:.4g}"), "interval": values}


@dataclass(frozen=True)
class Sheet:
    """Measurements of a tray's grains."""

    unit: str  # `mm` where the scale is known, else `px`
    sizes: Mapping[str, Estimate]  # medians over the grains that are not broken: length, width, length/width
    shape: str
    broken: np.ndarray  # which grains are broken, bool `[n]`
    broken_below: float
    head_rice: Estimate
    """Share of the mass that is not broken, a grain's mass being its area times its width: the ellipsoid of pi / 6
    length x width x thickness (Mohsenin 1986, Physical Properties of Plant and Animal Materials), with thickness in
    proportion to width."""
    colours: tuple[str, ...]  # each grain's colour defect, empty for none
    no_colours: str | None  # why colours were not measured

    def shares(self) -> dict[str, Estimate]:
        """Give the shares of broken grains and of each colour defect, by number of grains."""
        counts = {"broken": int(self.broken.sum())}
        if self.no_colours is None:
            counts |= {name: self.colours.count(name) for name in DEFECTS}
        total = len(self.broken)
        return {name: Estimate(count / total, wilson(count, total)) for name, count in counts.items()}

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Give name, value, interval and remark of each line of the sheet."""
        remarks = {
            "length/width": f"{self.shape} (Codex STAN 198)",
            "broken": f"shorter than {self.broken_below:g} of the whole grains' mean length",
            "head rice": "of the mass, estimated as area x width",
            **DEFECTS,
        }
        sizes = {name if "/" in name else f"{name}, {self.unit}": own for name, own in self.sizes.items()}
        shares = {**self.shares(), "head rice": self.head_rice}
        lines = [
            (name, form.format(own.value), " to ".join(map(form.format, own.interval or ())), remarks.get(name, ""))
            for form, group in (("{:.2f}", sizes), ("{:.1%}", shares))
            for name, own in group.items()
        ]
        return lines + [("colours", "-", "", f"not measured: {self.no_colours}")] * (self.no_colours is not None)

    def as_dict(self) -> dict[str, Any]:
        """Give the sheet as it is written."""
        return {
            "unit": self.unit,
            **{name: own.as_dict() for name, own in self.sizes.items()},
            "shape": self.shape,
            **{name: own.as_dict() for name, own in self.shares().items()},
            "broken_below": self.broken_below,
            "head_rice_by_mass": self.head_rice.as_dict(),
            **({} if self.no_colours is None else {"colours_not_measured": self.no_colours}),
        }


def measure(
    image: np.ndarray, grains: Sequence[Grain], mm_per_pixel: float | None, broken_below: float = BROKEN_BELOW
) -> Sheet:
    """Measure the grains of a tray, uint8 RGB `[H, W, 3]`, at least one; in pixels where its scale is not known."""
    length, width, area = np.array([(grain.length, grain.width, grain.area) for grain in grains]).T
    broken = length < broken_below * _whole_length(length, broken_below)
    scale = mm_per_pixel or 1.0
    values = {"length": length * scale, "width": width * scale, "length/width": length / width}
    sizes = {name: _median(own[~broken]) for name, own in values.items()}
    ratio = round(sizes["length/width"].value, 1)
    mass = area * width
    drawn = np.random.default_rng(83).integers(0, len(mass), (1000, len(mass)))
    low, high = np.quantile((mass * ~broken)[drawn].sum(axis=1) / mass[drawn].sum(axis=1), (0.025, 0.975)).tolist()
    head_rice = Estimate(float(mass[~broken].sum() / mass.sum()), (low, high) if low < high else None)
    shape = next(name for least, name in SHAPES if ratio >= least)
    unit = "px" if mm_per_pixel is None else "mm"
    return Sheet(unit, sizes, shape, broken, broken_below, head_rice, *_colours(image, grains))


def _whole_length(length: np.ndarray, broken_below: float) -> float:
    """Find the mean length of the whole grains: those that are not much shorter than it; from the upper quartile on."""
    mean = float(np.quantile(length, 0.75))
    for _ in range(20):
        mean = float(length[length >= broken_below * mean].mean())
    return mean


def _median(values: np.ndarray) -> Estimate:
    """Compute the median, and its interval from order statistics: of fewer than six values there is none."""
    ordered, count = np.sort(values), len(values)
    rank, ways, below = 0, 1, 1  # `below` of 2^count outcomes of fair coins show at most `rank` heads
    while 40 * below <= 2**count:
        ways = ways * (count - rank) // (rank + 1)
        rank, below = rank + 1, below + ways
    interval = (float(ordered[rank - 1]), float(ordered[count - rank])) if rank else None
    return Estimate(float(np.median(ordered)), interval)


def _colours(image: np.ndarray, grains: Sequence[Grain]) -> tuple[tuple[str, ...], str | None]:
    """Name each grain's colour defect, or say why the photograph does not show them."""
    none = ("",) * len(grains)
    if len(grains) < MIN_FOR_COLOUR:
        return none, f"fewer than {MIN_FOR_COLOUR} grains"
    pixels = [core(image, grain) for grain in grains]
    if np.mean(np.concatenate(pixels).min(axis=1) >= 254) > MAX_CLIPPED:
        return none, "the grains are overexposed"
    means = np.array([own.mean(axis=0) for own in pixels])
    white = np.argsort(_lab(means)[:, 2])[: -(-len(means) // 3)]
    colour = np.median(means[white], axis=0)
    if np.hypot(*_lab(colour)[0, 1:]) > MAX_CAST:
        return none, "the light, or the whitest grains, have a colour of their own"
    names = []
    for own, (lightness, red, yellow) in zip(pixels, _lab(means * (WHITE / colour)), strict=True):
        hue = np.degrees(np.arctan2(yellow, red))
        shown = {
            "black": lightness < 45,
            "red": red > 8 and hue < 70,
            "yellow": yellow > 18 and 70 <= hue < 110,
            "chalky": np.mean(own @ LUMA > OPAQUE[0] * (colour @ LUMA)) >= OPAQUE[1],
        }
        names.append(next((name for name, applies in shown.items() if applies), ""))
    return tuple(names), None


def core(image: np.ndarray, grain: Grain) -> np.ndarray:
    """Take the pixels of a grain without its rim, uint8 `[n, 3]`."""
    mask, (x, y) = mask_of(grain.outline)
    inside = cv2.erode(mask, np.ones((5, 5), np.uint8), borderValue=0)
    return image[y : y + mask.shape[0], x : x + mask.shape[1]][(inside if inside.any() else mask) > 0]


def _lab(colours: np.ndarray) -> np.ndarray:
    """Convert sRGB, 0-255, to CIELAB: float32 `[n, 3]`."""
    rgb = np.clip(np.atleast_2d(colours) / 255, 0, 1).astype(np.float32)
    return np.asarray(cv2.cvtColor(rgb[None], cv2.COLOR_RGB2LAB)[0])
