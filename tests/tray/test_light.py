"""The brightness of a tray's grains is corrected as far as the training images do not show it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from support.trays import Setting, compose, grain_of, synthetic_grains

from rice_lib.tray.find import find
from rice_lib.tray.frame import BRIGHTNESS, MAX_GAIN, gains


def test_dull_and_uneven_light_is_corrected_to_that_of_the_training_images():
    tray = compose(synthetic_grains(30), Setting(shape=(1000, 1300), uneven=0.0, shadow=0.0), 2)
    grains = find(tray.image).grains
    assert np.allclose(gains(tray.image, grains), 1, atol=0.03)
    fall = np.linspace(0.5, 0.9, 1300)[None, :, None]
    dull = (tray.image * fall).astype(np.uint8)
    expected = 1 / np.array([fall[0, int(grain.centre[0]), 0] for grain in grains])
    ratio = gains(dull, grains) / expected
    assert 0.88 < ratio.min() <= ratio.max() < 1.12


def test_light_as_in_the_training_images_is_left_alone():
    image = np.full((500, 600, 3), 15, np.uint8)
    grain = grain_of((150, 70))
    for level in BRIGHTNESS:
        cv2.fillPoly(image, [grain.outline], (level,) * 3)
        assert gains(image, [grain]) == pytest.approx(1, abs=1e-6)
    cv2.fillPoly(image, [grain.outline], (BRIGHTNESS[0] / 2,) * 3)
    assert gains(image, [grain]) == pytest.approx(2, rel=0.02)
    cv2.fillPoly(image, [grain.outline], (BRIGHTNESS[0] / 5,) * 3)
    assert gains(image, [grain]) == pytest.approx(MAX_GAIN)
