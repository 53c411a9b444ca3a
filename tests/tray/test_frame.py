"""A grain of a tray reaches the model at the size and the place of a training image."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image
from support.trays import grain_of, synthetic_grains

from rice_lib.contract.decode import to_square
from rice_lib.tray.find import Grain, contours, find
from rice_lib.tray.frame import frame


def test_at_the_training_scale_a_grain_is_what_the_training_image_shows():
    source = synthetic_grains(1)[0][0]
    tray = np.full((600, 600, 3), 2, np.uint8)
    tray[170:420, 210:460] = np.maximum(source, 2)
    (grain,) = find(tray).grains
    own = frame(tray, grain, 1.0).astype(int)
    rows, columns = np.nonzero(source.max(axis=2) > 60)
    # the training images' grains lie in the middle of their box's frame, as ours do
    shift = (round(124.5 - (rows.min() + rows.max()) / 2), round(124.5 - (columns.min() + columns.max()) / 2))
    expected = np.asarray(to_square(Image.fromarray(np.roll(source, shift, axis=(0, 1))))).astype(int)
    assert np.abs(own - expected).mean() < 2
    assert np.mean(np.abs(own - expected).max(axis=2) > 40) < 0.01


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.3, 2.0])
def test_the_frame_shows_a_grain_at_the_scale_asked_for(factor):
    image = np.full((500, 600, 3), 15, np.uint8)
    grain = grain_of((110 / factor, 60 / factor))
    cv2.fillPoly(image, [grain.outline], (210, 215, 220))
    seen = frame(image, grain, factor)
    again = (seen.max(axis=2) > 100).astype(np.uint8)
    found = Grain.of(contours(again)[0])
    assert (found.length, found.width) == pytest.approx((110 * 224 / 250, 60 * 224 / 250), abs=2.5)
    assert np.allclose(found.centre, (111.5, 111.5), atol=2)


def test_around_a_grain_is_black_and_its_rim_has_its_own_colour():
    image = np.full((500, 600, 3), 160, np.uint8)
    grain = grain_of((150, 70))
    cv2.fillPoly(image, [grain.outline], (230, 215, 205))
    image = cv2.GaussianBlur(image, (0, 0), 0.9)
    seen = frame(image, grain, 1.0).reshape(-1, 3)
    solid = seen[seen.max(axis=1) > 200]
    assert (seen[seen.max(axis=1) < 40] == 0).mean() > 0.97
    # none of the background's 160 grey is mixed in; only the resize to 224 blends the rim with black
    assert np.abs(solid.astype(int) - (230, 215, 205)).max(axis=1).mean() < 1.5


def test_what_is_longer_than_the_frame_is_made_to_fit():
    image = np.full((500, 600, 3), 15, np.uint8)
    grain = grain_of((400, 150), angle=0)
    cv2.fillPoly(image, [grain.outline], (220, 220, 220))
    seen = frame(image, grain, 1.0)
    columns = np.flatnonzero(seen.max(axis=(0, 2)) > 100)
    assert 215 <= columns[-1] - columns[0] + 1 <= 224
