"""How large a tray's grains are for the model: pixels of a training file to one pixel of the tray.

Why the scale must be known: the varieties differ in size more than in anything else. Karacadag at 1.3 times its size
looks like Arborio, Arborio at 1.4 times like Ipsala, Jasmine at 1.3 times like Basmati, so a photograph from another
distance is misclassified, and confidently. Where no scale is given, a tray is taken to have that of the training
images, and a warning says when its grains fit no variety at it.

Why millimetres give two scales: the training set was photographed at two. Its paper names neither. But the two
sessions of Jasmine, one variety, differ by the same factor in length (1.36) and in width (1.34), and no one scale fits
the published sizes of the five varieties: at Arborio's, Ipsala would be 4.3 mm wide and Basmati 9.6 mm long. A grain of
known size is therefore shown to the model at both scales, and a variety is predicted only at a scale of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rice_lib.contract.decision import ImageScale
from rice_lib.contract.image_file import BadImageError
from rice_lib.tray.find import Grain

NEAR_MM = 0.0365
"""Millimetres a pixel of the training files of Basmati, Ipsala and the second session of Jasmine.

Not published: from the axes measured on training files of that session of Jasmine (198 x 62.5 px) and the 7.5 x 2.2 mm
of the jasmine class in "Production of Quality Rice in South Eastern Australia" (RIRDC, chapter 13; the Rice CRC's
"Size and Weight" page): 0.0379 by length, 0.0352 by width. Uncertain by about 10 %."""

FAR_MM = 0.048
"""Millimetres a pixel of the training files of Arborio, Karacadag and the first session of Jasmine.

The same source: Arborio, 6.3 x 3.3 mm and 137 x 70.2 px, gives 0.0459 and 0.0470; Jasmine, 145 x 46.6 px, gives 0.0516
and 0.0472; the geometric mean of the four is 0.0479. Uncertain by about 10 %: other samples, and those measured were
brown, not milled."""

NEAR = {"Basmati": (203.5, 47.4), "Ipsala": (196.6, 91.9), "Jasmine": (198.2, 62.5)}
FAR = {"Arborio": (137.2, 70.2), "Jasmine": (145.3, 46.6), "Karacadag": (114.2, 71.9)}
"""Varieties photographed at each scale, with their major and minor axis in pixels of a training file: medians of 300
training grains a variety (means of the two sessions of Jasmine)."""

FIT = 0.12
"""A grain within this of a variety's axes (root mean square of the two logarithms) fits it: two standard deviations of
the training grains' axes, which spread by 5 to 8 %."""

ROUND = 0.9  # smallest width over length, and area over that of the ellipse, of a round object
REFERENCE_AREA = 1.5  # a reference object has at least this many times the area of the typical grain


@dataclass(frozen=True)
class View:
    """One scale at which grains are shown to the model."""

    factor: float  # pixels of a training file to one of the tray
    varieties: tuple[str, ...] | None  # those photographed at this scale, the only ones predicted at it; None: all
    axes: tuple[tuple[float, float], ...] = ()  # major and minor of the varieties, in pixels of a training file


Views = tuple[View, ...]
TRAINING: Views = (View(1.0, None, (*FAR.values(), *NEAR.values())),)
"""The scale of a tray of which one pixel is one of a training file."""


def known(mm_per_pixel: float) -> Views:
    """Give the scales at which a tray is shown whose pixels have a known size in millimetres."""
    sessions = ((FAR_MM, FAR), (NEAR_MM, NEAR))
    return tuple(View(mm_per_pixel / mm, tuple(axes), tuple(axes.values())) for mm, axes in sessions)


def for_model(trained: ImageScale | None, labels: Sequence[str], mm_per_pixel: float | None) -> Views:
    """Give the scales at which a model with these classes is shown the grains of a tray.

    `trained` is the scale of the model's training images, where it carries one; a model that carries none and knows
    other classes than the public set's sees pixel for pixel. `mm_per_pixel` is the tray's, where it is known.

    Raises `BadImageError` where the model was trained at a known scale, and the tray's is not known.
    """
    if trained is None:
        if not {*FAR, *NEAR} <= {*labels}:
            return (View(1.0, None),)
        return TRAINING if mm_per_pixel is None else known(mm_per_pixel)
    unit = mm_per_pixel if trained.unit == "mm" else 1.0
    if unit is None:
        raise BadImageError(
            "the model was trained on grains of known size: lay a coin beside these and give its --reference-mm, or "
            "give --mm-per-pixel"
        )
    return (View(unit / trained.per_pixel, None),)


def set_reference_aside(grains: Sequence[Grain], diameter_mm: float) -> tuple[list[Grain], Grain, float]:
    """Find the largest round object on a tray: gives the other objects, that one, and the millimetres per pixel.

    Raises `BadImageError` where there is none, or nothing beside it.
    """
    min_area = REFERENCE_AREA * float(np.median([grain.area for grain in grains]))
    round_ones = [
        grain
        for grain in grains
        if grain.area >= min_area
        and grain.width / grain.length >= ROUND
        and 2 - ROUND >= grain.area / (np.pi / 4 * grain.length * grain.width) >= ROUND
    ]
    if not round_ones:
        raise BadImageError(
            "no round reference object: lay a coin or a disc, larger than the grains and touching none, into the "
            "picture, or give --mm-per-pixel"
        )
    reference = max(round_ones, key=lambda grain: grain.area)
    others = [grain for grain in grains if grain is not reference]
    if not others:
        raise BadImageError("no grains beside the reference object")
    return others, reference, diameter_mm / float(np.sqrt(4 * reference.area / np.pi))


def misfit(grains: Sequence[Grain], views: Views) -> float | None:
    """Estimate how many times too large the grains are for the scales they are shown at.

    None where at least half fit a variety, or nothing is known of the varieties' sizes.
    """
    if not any(view.axes for view in views):
        return None
    sizes = np.log([(grain.length, grain.width) for grain in grains])
    axes = np.log([np.array(pair) / view.factor for view in views for pair in view.axes])

    def distances(times: float) -> np.ndarray:
        apart = sizes[:, None, :] - axes - np.log(times)
        return np.sqrt((apart**2).mean(axis=2)).min(axis=1)

    if np.median(distances(1.0)) <= FIT:
        return None
    tried = np.geomspace(0.1, 10, 231)
    return float(tried[np.argmin([np.minimum(distances(times), 0.5).mean() for times in tried])])
