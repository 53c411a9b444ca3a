"""A grain of a tray reaches the model at the size, the place and the brightness of a training image."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image
from support.trays import Setting, compose, synthetic_grains

from rice_lib.contract.decode import BadImageError, to_square
from rice_lib.tray import scale
from rice_lib.tray.find import Grain, find
from rice_lib.tray.frame import frame
from rice_lib.tray.light import BRIGHTNESS, gains


def grain_of(axes: tuple[float, float], angle: float = 20.0, centre=(300.0, 250.0)) -> Grain:
    solid = np.zeros((500, 600), np.uint8)
    cv2.ellipse(solid, (centre, axes, -angle), 1, -1)
    contours, _ = cv2.findContours(solid, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return Grain.of(contours[0][:, 0])


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
    contours, _ = cv2.findContours(again, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    found = Grain.of(contours[0][:, 0])
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
    # none of the ground's 160 grey is mixed in; only the resize to 224 blends the rim with black
    assert np.abs(solid.astype(int) - (230, 215, 205)).max(axis=1).mean() < 1.5


def test_what_is_longer_than_the_frame_is_made_to_fit():
    image = np.full((500, 600, 3), 15, np.uint8)
    grain = grain_of((400, 150), angle=0)
    cv2.fillPoly(image, [grain.outline], (220, 220, 220))
    seen = frame(image, grain, 1.0)
    columns = np.flatnonzero(seen.max(axis=(0, 2)) > 100)
    assert 215 <= columns[-1] - columns[0] + 1 <= 224


def test_dull_and_uneven_light_is_taken_back_to_that_of_the_training_images():
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


def test_millimetres_give_the_two_scales_of_the_training_set():
    far, near = scale.known(scale.FAR_MM).views
    assert (far.factor, near.factor) == (1.0, pytest.approx(scale.FAR_MM / scale.NEAR_MM))
    assert set(far.varieties) | set(near.varieties) == set(scale.AXES)
    # the same grain, photographed with pixels of half the size, is twice as long in pixels: half the factor
    assert scale.known(scale.FAR_MM / 2).views[0].factor == 0.5


def test_the_two_sessions_of_jasmine_are_the_two_scales():
    (far, near) = (np.array(axes) for axes in scale.AXES["Jasmine"])
    assert near / far == pytest.approx([scale.FAR_MM / scale.NEAR_MM] * 2, rel=0.05)


def test_the_reference_is_the_largest_round_object():
    grains = [grain_of((140, 70)), grain_of((200, 90)), grain_of((74, 71))]
    coin, larger = grain_of((180, 180)), grain_of((230, 228))
    assert scale.find_reference([*grains, coin]) is coin
    assert scale.find_reference([larger, *grains, coin]) is larger
    known = scale.by_reference(coin, 23.25)
    assert known.mm_per_pixel == pytest.approx(23.25 / 181, rel=0.01)
    with pytest.raises(BadImageError, match="no round reference object"):
        scale.find_reference(grains)


def test_grains_of_another_size_are_noticed():
    grains = [grain_of(axes) for pairs in scale.AXES.values() for axes in pairs]
    assert scale.misfit(grains, scale.TRAINING) is None
    assert scale.misfit(grains, scale.known(0.01)) is not None
    for times in (0.5, 1.8):
        sized = [grain_of((a * times, b * times)) for pairs in scale.AXES.values() for a, b in pairs]
        assert scale.misfit(sized, scale.TRAINING) == pytest.approx(times, rel=0.15)
