"""The features against shapes whose values are known, and against the changes that must not move them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rice_lib.contract.decode import IMAGE_SIZE
from rice_lib.contract.features import COLUMN, FEATURES, extract_features
from rice_lib.data.synthetic import draw

SIDE = IMAGE_SIZE


def of(image: np.ndarray) -> dict[str, float]:
    return dict(zip(FEATURES, extract_features(image).tolist(), strict=True))


def painted(mask: np.ndarray, colour: tuple[int, int, int] = (200, 190, 220)) -> np.ndarray:
    return np.where(mask[:, :, None] > 0, np.uint8(colour), np.uint8(0))


def ellipse(major: int, minor: int, turn: float = 0, middle: tuple[int, int] = (112, 112)) -> np.ndarray:
    return cv2.ellipse(np.zeros((SIDE, SIDE), np.uint8), middle, (major, minor), turn, 0, 360, 1, -1)


def grain(number: int = 1) -> np.ndarray:
    return cv2.resize(draw("Arborio", number, 10, 83), (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def test_an_ellipse_has_an_ellipses_values():
    found = of(painted(ellipse(80, 40, 30)))
    assert found["area"] == pytest.approx(np.pi * 80 * 40 / SIDE**2, rel=0.03)
    assert (found["rim"], found["objects"]) == (0, 1)
    assert found["fill"] == pytest.approx(1, abs=0.01)
    assert found["solidity"] == pytest.approx(1, abs=0.05)
    assert np.exp(found["length"]) == pytest.approx(80, rel=0.02)  # full axes, in every second pixel
    assert np.exp(found["width"]) == pytest.approx(40, rel=0.02)
    # uniform over an ellipse: E x^4 = 3 E[x^2]^2 * 2/3
    assert found["end weight"] == pytest.approx(2, abs=0.02)
    assert found["side weight"] == pytest.approx(2, abs=0.03)
    assert found["lopsidedness"] == pytest.approx(0, abs=0.05)


def test_a_bar_has_a_bars_values():
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[92:132, 52:172] = 1
    found = of(painted(mask))
    assert found["fill"] == pytest.approx(3 / np.pi, abs=0.01)  # ab / (pi/4 * 4a/sqrt(12) * 4b/sqrt(12))
    assert found["end weight"] == pytest.approx(1.8, abs=0.01)
    assert found["solidity"] == pytest.approx(1, abs=0.03)


def test_colours_are_those_of_the_core():
    image = painted(ellipse(80, 50), (200, 190, 220))
    image[ellipse(80, 50).astype(bool) & ~ellipse(72, 45).astype(bool)] = (90, 90, 90)  # a dark outline
    found = of(image)
    assert found["luma"] == pytest.approx(0.299 * 200 + 0.587 * 190 + 0.114 * 220, abs=0.01)
    assert (found["red less green"], found["blue less green"]) == pytest.approx((10, 30))
    assert (found["luma spread"], found["hue spread"], found["grain"]) == pytest.approx((0, 0, 0), abs=1e-3)


def test_spread_and_grain_of_known_noise():
    image = painted(ellipse(90, 60), (200, 190, 200))
    noise = np.random.default_rng(0).normal(0, 10, (SIDE, SIDE, 1))
    image = np.where(image > 0, image + noise, 0).astype(np.uint8)
    found = of(image)
    assert np.expm1(found["luma spread"]) == pytest.approx(10, rel=0.06)
    assert np.expm1(found["grain"]) == pytest.approx(20 / np.sqrt(np.pi), rel=0.06)  # E|a - b| of two normals
    assert np.expm1(found["hue spread"]) < 1


@pytest.mark.parametrize(
    ("mask", "objects"),
    [
        (ellipse(30, 20, 0, (60, 60)) | ellipse(30, 20, 0, (160, 160)), 2),
        (ellipse(80, 60) - ellipse(40, 30), 0),
        (ellipse(80, 60) - ellipse(20, 15, 0, (80, 112)) - ellipse(20, 15, 0, (140, 112)), -1),
    ],
)
def test_objects_less_holes(mask, objects):
    assert of(painted(mask))["objects"] == objects


def test_several_things_lower_solidity_and_fill():
    two = of(painted(ellipse(70, 25, 20, (112, 80)) | ellipse(70, 25, 100, (112, 130))))
    assert two["solidity"] < 0.8
    assert two["fill"] < 0.9


def test_what_touches_the_border():
    assert of(painted(ellipse(80, 40, 0, (60, 112))))["rim"] > 0.02
    assert of(np.full((SIDE, SIDE, 3), 200, np.uint8))["rim"] == 1


@pytest.mark.parametrize("level", [15, 45, 85])
def test_a_dark_background_of_any_level_leaves_the_shape(level):
    cloth = np.random.default_rng(0).normal(level, 5, (SIDE, SIDE, 1)).clip(0, 255)
    before, after = of(grain()), of(np.maximum(grain(), cloth).astype(np.uint8))
    assert (after["rim"], after["objects"]) == (0, 1)
    for name in ("solidity", "fill", "length", "width"):
        assert after[name] == pytest.approx(before[name], abs=0.08), name


@pytest.mark.parametrize(
    "change", [lambda i: np.rot90(i).copy(), lambda i: i[:, ::-1].copy(), lambda i: i[::-1].copy()]
)
def test_a_rotated_or_mirrored_grain_has_the_same_features(change):
    # every second pixel starts elsewhere in a turned image: equal up to that
    before, after = extract_features(grain()), extract_features(change(grain()))
    np.testing.assert_allclose(after, before, atol=0.06, rtol=0.03)


def test_any_angle_leaves_the_shape_and_the_colour():
    before = extract_features(grain())
    for degrees in (17, 45, 133):
        matrix = cv2.getRotationMatrix2D((111.5, 111.5), degrees, 1)
        after = extract_features(cv2.warpAffine(grain(), matrix, (SIDE, SIDE)))
        names = ("solidity", "fill", "length", "width", "end weight", "side weight", "luma", "blue less green")
        for name in names:
            assert after[COLUMN[name]] == pytest.approx(before[COLUMN[name]], abs=0.05, rel=0.02), name


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(np.uint8, (SIDE, SIDE, 3), elements=st.integers(0, 255), fill=st.sampled_from([0, 41, 81, 255])))
def test_any_pixels_have_finite_features(image):
    found = extract_features(image)
    assert found.dtype == np.float32
    assert found.shape == (len(FEATURES),)
    assert np.isfinite(found).all()


def test_an_empty_image_has_no_features():
    assert not extract_features(np.zeros((SIDE, SIDE, 3), np.uint8)).any()
    speck = np.zeros((SIDE, SIDE, 3), np.uint8)
    speck[100:104, 100:104] = 255
    assert of(speck)["objects"] == 0
    assert 0 < of(speck)["area"] < 0.001


def test_the_image_is_not_changed():
    image = grain()
    before = image.copy()
    extract_features(image)
    np.testing.assert_array_equal(image, before)
