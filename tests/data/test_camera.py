"""The simulated other camera: what it keeps (the grain, whole) and what it changes (all else), and how far."""

from __future__ import annotations

import numpy as np
import pytest
from support.data import grain

from rice_lib.common.parameters import AugmentationParams
from rice_lib.contract.decode import decode
from rice_lib.data import camera
from rice_lib.data.loading import Examples
from rice_lib.data.shape_features import FEATURE_NAMES, shape_features
from rice_lib.data.synthetic import VARIETIES


@pytest.fixture(scope="module")
def grains():
    pixels = np.stack([decode(grain(variety, number)) for variety in VARIETIES for number in range(1, 7)])
    labels = np.repeat(np.arange(len(VARIETIES)), 6)
    return Examples(pixels, np.arange(len(pixels)), labels, [str(row) for row in range(len(pixels))], VARIETIES)


def plain(**changes):
    """A camera that changes nothing but what is named."""
    neutral = {**dict.fromkeys(camera.RANGES, 0.0), **dict.fromkeys(("scale", "warmth", "light", "gamma"), 1.0)}
    return {**neutral, "blur": 0.01, "jpeg": 100.0, **changes}


def test_an_image_depends_on_the_seed_and_its_row_alone(grains):
    all_of_them = camera.rephotograph(grains, 83)
    some = camera.rephotograph(grains.take(np.array([4, 2])), 83)
    np.testing.assert_array_equal(some.batch(slice(None)), all_of_them.batch(np.array([4, 2])))
    assert (some.paths, some.labels.tolist()) == (["4", "2"], [0, 0])
    assert (camera.rephotograph(grains, 84).batch(slice(None)) != all_of_them.batch(slice(None))).any()
    # grains of one image under two rows are two draws
    twice = Examples(grains.pixels, np.array([3, 3]), np.zeros(2, int), ["a", "b"], VARIETIES)
    np.testing.assert_array_equal(*camera.rephotograph(twice, 83).pixels)


@pytest.mark.parametrize("seed", range(4))
def test_no_grain_is_cut_by_the_border(grains, seed):
    for image, row in zip(grains.pixels, grains.rows, strict=True):
        random = np.random.default_rng([seed, row])
        drawn = {**camera.draw(random), "background": 0.0, "texture": 0.0, "noise": 0.0, "vignette": 0.0}
        seen = camera.photograph(image, drawn, random)
        border = np.concatenate([seen[0], seen[-1], seen[:, 0], seen[:, -1]])
        assert border.max() < 20, (row, drawn)
        assert seen.max() > 60


def test_a_plain_camera_keeps_shape_size_and_colour(grains):
    random = np.random.default_rng(0)
    seen = np.stack([camera.photograph(image, plain(), random) for image in grains.pixels])
    before, after = shape_features(grains.pixels), shape_features(seen)
    for name in ("major axis", "minor axis", "solidity", "red", "blue"):
        column = FEATURE_NAMES.index(name)
        np.testing.assert_allclose(after[:, column], before[:, column], rtol=0.05, err_msg=name)


@pytest.mark.parametrize(
    ("changes", "feature", "expected"),
    [
        ({"scale": 0.7}, "major axis", 0.7),
        ({"light": 0.6}, "green", 0.6),
        ({"warmth": 1.21}, "red", 1.1),
        ({"warmth": 1.21}, "blue", 1 / 1.1),
    ],
)
def test_a_property_changes_what_it_names(grains, changes, feature, expected):
    dim = {"light": 0.6, **changes}  # so that nothing is clipped
    column = FEATURE_NAMES.index(feature)
    random = np.random.default_rng(0)
    seen = np.stack([camera.photograph(image, plain(**dim), random) for image in grains.pixels])
    if feature in ("red", "blue"):
        expected *= 0.6
    ratio = shape_features(seen)[:, column] / shape_features(grains.pixels)[:, column]
    np.testing.assert_allclose(ratio, expected, rtol=0.06)


def test_draws_lie_in_their_intervals_and_go_either_way():
    drawn = [camera.draw(np.random.default_rng(seed)) for seed in range(200)]
    for name, (low, high) in camera.RANGES.items():
        values = np.array([each[name] for each in drawn])
        if name in camera.EITHER_WAY:
            other = values < camera.EITHER_WAY[name]
            assert 0.3 < other.mean() < 0.7
            values[other] = 1 / values[other] if camera.EITHER_WAY[name] else -values[other]
        assert ((low <= values) & (values <= high)).all(), name


def test_no_augmentation_has_the_lens_the_tilt_the_vignette_or_the_cloth():
    """The recipes share size, light and blur with the camera (findings.qmd); these four are in none."""
    shared = {"scale", "light", "warmth", "gamma", "background", "blur", "noise", "jpeg"}
    assert set(camera.RANGES) - shared == {"lens", "tilt", "vignette", "texture"}
    assert not {"lens", "tilt", "vignette", "texture"} & set(AugmentationParams.model_fields)
