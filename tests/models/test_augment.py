"""Augmentation: what it changes, what it leaves, and that it is the same for the same random state."""

import numpy as np
import torch

from rice_lib.common.parameters import AugmentationParams
from rice_lib.models.augment import augment, random_affine

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
