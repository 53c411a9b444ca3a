"""Grains are classified at the scales they are shown at, and counted."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import pytest
from support.trays import BySize, RejectsLarge

from rice_lib.contract.decision import Decision
from rice_lib.contract.prediction import Prediction
from rice_lib.tray.analyse import NO_VARIETY, classify
from rice_lib.tray.find import Grain, find
from rice_lib.tray.scale import FAR_MM, TRAINING, View, known


@cache
def tray() -> tuple[np.ndarray, list[Grain]]:
    """One large ellipse, and the grain found there."""
    image = np.full((400, 400, 3), 15, np.uint8)
    cv2.ellipse(image, ((200.0, 200.0), (190.0, 90.0), 0), (230, 230, 230), -1)
    return image, find(image).grains


def predicted(model: BySize, *views: View, reject: bool = True) -> Prediction:
    """Of the ellipse, at those scales."""
    image, grains = tray()
    (prediction,) = classify(model, image, grains, np.ones(1), views, reject=reject)
    return prediction


def test_at_two_scales_a_variety_is_predicted_at_its_own():
    model = BySize()
    assert predicted(model, *TRAINING).label == "Ipsala"
    some, rest = ("Basmati", "Ipsala"), ("Arborio", "Jasmine", "Karacadag")
    assert predicted(model, View(1.0, some), View(0.8, rest)).label == "Ipsala"
    assert predicted(model, View(1.0, ("Karacadag", "Arborio")), View(0.5, ("Jasmine", *some))).label == "Jasmine"
    assert predicted(model, View(1.0, rest), View(0.5, some)).reason == NO_VARIETY
    assert predicted(model, View(1.0, rest), View(0.5, some), reject=False).reason is None


@pytest.mark.parametrize(
    ("far", "near", "label", "reason"),
    [(0.7, 1.4, "Karacadag", None), (1.2, 1.4, "unknown", "unlike the training images (its size)")],
)
def test_at_two_scales_a_rejection_at_one_leaves_the_other(far, near, label, reason):
    one, other = known(FAR_MM)
    model = BySize(Decision(rejection=RejectsLarge()))
    prediction = predicted(model, View(far, one.varieties), View(near, other.varieties))
    assert (prediction.label, prediction.reason) == (label, reason)
