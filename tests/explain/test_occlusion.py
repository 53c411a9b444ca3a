"""Relevance maps: they mark what the model reads, in every backend, at one call to the model an image."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from support.models import grains, tiny_checkpoint, tiny_onnx

from rice_lib.backends.open import open_predictor
from rice_lib.contract.decision import Decision
from rice_lib.explain.occlusion import GRID, NEIGHBOURHOOD, black_out, grain_area, relevance_maps


class OnePatch:
    """A stub that predicts class 1 where the patch `key` of an image is not black; counts its calls."""

    labels = ("a", "b", "c")

    def __init__(self, key: int, decision: Decision | None = None) -> None:
        self.key, self.decision, self.calls = key, decision or Decision(), []

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        self.calls.append(len(pixels))
        there = grain_area(pixels)[:, self.key, None] > 0
        return np.where(there, [0, 9, 0], [9, 0, 0]).astype(np.float32)


def test_a_map_marks_the_patch_that_the_model_reads():
    (image,) = grains(1)
    key = int(grain_area(image[None]).argmax())
    model = OnePatch(key)
    (found,) = relevance_maps(model, image[None])
    assert found.shape == (GRID, GRID)
    assert found.dtype == np.float32
    marked = found.ravel() > 0
    bright = grain_area(image[None])[0] > 0
    np.testing.assert_array_equal(marked, NEIGHBOURHOOD[key] & bright)
    # 9 more than two others at 0, then 9 less than one and as much as the other
    expected = 9 - np.log(2) - (0 - np.log(np.exp(9) + 1))
    assert found.max() == pytest.approx(expected, rel=1e-5)
    assert model.calls == [1 + bright.sum()]


def test_a_map_is_of_calibrated_odds():
    (image,) = grains(1)
    key = int(grain_area(image[None]).argmax())
    plain, calibrated = (relevance_maps(OnePatch(key, decision), image[None]) for decision in (None, Decision(3.0)))
    assert calibrated.max() == pytest.approx(plain.max() / 3, rel=0.1)


def test_a_model_that_is_sure_beyond_float64_still_has_a_map():
    (image,) = grains(1)
    key = int(grain_area(image[None]).argmax())
    model = SimpleNamespace(decision=Decision(), logits=lambda p: OnePatch(key).logits(p) * 100)
    found = relevance_maps(model, image[None])
    assert np.isfinite(found).all()
    assert found.max() > 1000


def test_the_background_is_not_blacked_out():
    black, bright = np.zeros((224, 224, 3), np.uint8), np.full((224, 224, 3), 200, np.uint8)
    model = OnePatch(0)
    maps = relevance_maps(model, np.stack([black, bright]))
    assert not maps[0].any()
    assert model.calls == [1, 197]
    assert relevance_maps(model, np.empty((0, 224, 224, 3), np.uint8)).shape == (0, GRID, GRID)


def test_dark_cloth_is_no_part_of_the_grain():
    (image,) = grains(1)
    cloth = np.random.default_rng(0).normal(60, 5, (224, 224, 1)).clip(0, 255)
    before, after = grain_area(np.stack([image, np.maximum(image, cloth).astype(np.uint8)]))
    assert after.sum() == pytest.approx(before.sum(), rel=0.05)
    assert not after[before == 0].any()


def test_a_neighbourhood_is_a_cross_that_the_border_cuts():
    assert NEIGHBOURHOOD.sum(axis=1).reshape(GRID, GRID)[[0, 0, 5], [0, 5, 5]].tolist() == [3, 4, 5]
    assert np.flatnonzero(NEIGHBOURHOOD[13]).tolist() == [12, 13, 27]


def test_a_checkpoint_and_its_export_draw_the_same_map():
    pixels = grains(2)
    maps = []
    for spec in (tiny_checkpoint(), tiny_onnx()):
        with open_predictor(spec, 1) as predictor:
            maps.append(relevance_maps(predictor, pixels))
    np.testing.assert_allclose(*maps, atol=1e-3)
    assert np.abs(maps[0]).max() > 0.01, "maps of zeros would prove nothing"


def test_black_out_blacks_those_patches_alone():
    pixels = np.full((1, 224, 224, 3), 9, np.uint8)
    patches = np.zeros((1, 196), bool)
    patches[0, 15] = True
    black = black_out(pixels, patches)
    assert not black[0, 16:32, 16:32].any()
    assert black.astype(int).sum() == pixels.astype(int).sum() - 9 * 3 * 256
