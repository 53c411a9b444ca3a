"""Augmentation: what each ingredient changes and leaves, and that the same random state gives the same images."""

import numpy as np
import pytest
import torch

from rice_lib.common.parameters import AugmentationParams
from rice_lib.models.augment import augment, random_affine, random_tables

NOTHING = AugmentationParams(rotation_degrees=0, flip=False, scale=0, shift=0, brightness=0)


def blob(count=4):
    images = np.zeros((count, 64, 64, 3), np.uint8)
    images[:, 20:44, 28:36] = (200, 180, 160)
    return images


def test_nothing_asked_nothing_changed():
    images = blob()
    assert np.array_equal(augment(images, NOTHING), images)


def test_same_state_same_images_and_the_next_draw_differs():
    images = blob()
    torch.manual_seed(1)
    first, second = augment(images, AugmentationParams()), augment(images, AugmentationParams())
    torch.manual_seed(1)
    assert np.array_equal(augment(images, AugmentationParams()), first)
    assert not np.array_equal(first, second)


def test_the_grain_keeps_its_size_and_place_within_the_bounds():
    torch.manual_seed(2)
    params = AugmentationParams(scale=0.05, shift=0.03, brightness=0.0)
    images = blob(64)
    changed = augment(images, params)
    area = (changed.max(-1) > 90).sum((1, 2)) / (images[0].max(-1) > 90).sum()
    assert 0.85 < area.min() < area.max() < 1.15
    rows, columns = np.indices((64, 64))
    weight = changed.max(-1).astype(float)
    for axis in (rows, columns):
        centre = (weight * axis).sum((1, 2)) / weight.sum((1, 2))
        assert np.abs(centre - 31.5).max() < 0.03 * 64 + 1


def test_brightness_scales_and_does_not_wrap():
    torch.manual_seed(3)
    images = np.full((200, 2, 2, 3), 240, np.uint8)
    values = augment(images, NOTHING.model_copy(update={"brightness": 0.2}))
    assert values.max() == 255
    assert 185 < values.min() < 215


def test_half_of_the_draws_mirror():
    torch.manual_seed(4)
    determinants = np.linalg.det(random_affine(1000, 64, 64, AugmentationParams())[:, :, :2])
    assert 400 < (determinants < 0).sum() < 600
    assert np.linalg.det(random_affine(50, 64, 64, NOTHING)[:, :, :2]).min() > 0


EVERYTHING = AugmentationParams(
    scale=0.4, stretch=0.05, brightness=0.2, channel_gain=0.3, gamma=0.2, greyscale=0.2, background=0.1, blur=1.5,
    noise=8.0, jpeg_quality=50,
)  # fmt: skip


def only(**ingredient):
    return NOTHING.model_copy(update=ingredient)


def test_all_ingredients_keep_shape_and_type_and_follow_the_random_state():
    images = blob(16)
    torch.manual_seed(5)
    first = augment(images, EVERYTHING)
    torch.manual_seed(5)
    assert np.array_equal(augment(images, EVERYTHING), first)
    assert first.shape == images.shape
    assert first.dtype == np.uint8
    assert np.array_equal(images, blob(16)), "the originals are left alone"


def test_scale_is_log_uniform_between_its_bounds():
    torch.manual_seed(6)
    scale = np.sqrt(np.linalg.det(random_affine(4000, 64, 64, only(scale=0.6))[:, :, :2]))
    assert 1 / 1.6 <= scale.min() < 1 / 1.55
    assert 1.55 < scale.max() <= 1.6
    assert abs(np.log(scale).mean()) < 0.02


def test_stretch_keeps_the_area_and_stays_within_its_ratio():
    torch.manual_seed(7)
    linear = random_affine(1000, 64, 64, only(stretch=0.1, rotation_degrees=180))[:, :, :2]
    assert np.allclose(np.linalg.det(linear), 1)
    values = np.linalg.svd(linear, compute_uv=False)
    ratio = values[:, 0] / values[:, 1]
    assert 1.08 < ratio.max() <= 1.1 + 1e-9


def test_gain_gamma_and_background_move_levels_as_they_say():
    torch.manual_seed(8)
    gain = random_tables(500, only(channel_gain=0.25))[:, 100]
    assert 79 <= gain.min() <= 82
    assert 123 <= gain.max() <= 126
    assert (gain.max(axis=1) - gain.min(axis=1)).mean() > 10, "each channel by itself"
    gamma = random_tables(500, only(gamma=0.25))
    assert (gamma[:, 0] == 0).all()
    assert (gamma[:, 255] == 255).all()
    assert np.ptp(gamma[:, 128].astype(int), axis=1).max() == 0, "the same for all channels"
    background = random_tables(500, only(background=0.1))
    assert 23 <= background[:, 0].max() <= 26
    assert (background[:, 255] == 255).all()


def test_half_of_the_images_keep_their_colour_and_light():
    torch.manual_seed(10)
    tables = random_tables(2000, only(brightness=0.2, channel_gain=0.25, gamma=0.2, background=0.1))
    kept = (tables == np.arange(256)[None, :, None]).all((1, 2))
    assert 0.45 < kept.mean() < 0.55


def test_greyscale_takes_the_colour_of_its_share():
    torch.manual_seed(9)
    changed = augment(blob(400), only(greyscale=0.25))
    grey = (np.ptp(changed.astype(int), axis=-1) == 0).all((1, 2))
    assert 0.18 < grey.mean() < 0.32


@pytest.mark.parametrize("ingredient", [{"blur": 2.0}, {"noise": 8.0}, {"jpeg_quality": 30}])
def test_blur_noise_and_jpeg_change_half_of_the_images(ingredient):
    torch.manual_seed(10)
    images = np.repeat(np.random.default_rng(0).integers(0, 255, (1, 64, 64, 3), dtype=np.uint8), 400, axis=0)
    changed = (augment(images, only(**ingredient)) != images).any((1, 2, 3))
    assert 0.38 < changed.mean() < 0.6


def test_jpeg_keeps_the_order_of_the_channels():
    torch.manual_seed(11)
    images = np.full((20, 32, 32, 3), (200, 120, 40), np.uint8)
    assert np.abs(augment(images, only(jpeg_quality=90)).astype(int) - images).max() < 12


def test_noise_has_at_most_its_standard_deviation():
    torch.manual_seed(12)
    changed = augment(np.full((200, 64, 64, 3), 128, np.uint8), only(noise=10.0)).astype(float)
    deviation = changed.std((1, 2, 3))
    assert 8.5 < deviation.max() < 10.5
    assert abs(changed.mean() - 128) < 0.2
