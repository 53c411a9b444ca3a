"""The studies' small network: its frames are the alignment's, it learns, and its training is repeatable."""

from __future__ import annotations

import numpy as np
import torch
from support.models import grains

from rice_lib.backends.align import GrainAlignment
from rice_lib.data.loading import Examples
from rice_lib.models import small


def examples(pixels: np.ndarray) -> Examples:
    count = len(pixels)
    return Examples(pixels, np.arange(count), np.arange(count) % 2, [str(row) for row in range(count)], ("a", "b"))


def test_frames_hold_the_grain_at_one_size_and_colour():
    pixels = grains(2)
    dimmed = np.rint(pixels * np.array([0.8, 1, 0.7])).astype(np.uint8)
    laid, other = small.frames(examples(pixels)), small.frames(examples(dimmed))
    assert laid.shape == (len(pixels), small.HEIGHT, small.WIDTH, 3)
    assert laid.dtype == np.uint8
    assert laid.flags.c_contiguous, "as OpenCV changes images in place"
    assert np.abs(laid.astype(int) - other).mean() < 2


def test_another_alignment_may_be_asked_for():
    class Uncoloured(GrainAlignment):
        def _gain(self, contrast):
            return torch.ones_like(contrast)

    pixels = grains(1)
    dimmed = np.rint(pixels * np.array([0.8, 1, 0.7])).astype(np.uint8)
    alignment = Uncoloured(224, small.HEIGHT, small.WIDTH)
    one, other = small.frames(examples(pixels), alignment), small.frames(examples(dimmed), alignment)
    bright = one.max(axis=-1) > 100
    assert other[bright].mean(axis=0)[2] < 0.8 * one[bright].mean(axis=0)[2]


def test_it_learns_and_the_same_seed_learns_the_same():
    random = np.random.default_rng(0)
    labels = np.arange(60) % 2
    images = random.integers(0, 80, (60, small.HEIGHT, small.WIDTH, 3)).astype(np.uint8)
    images[labels == 1, :, 20:60] += 100
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        model = small.SmallCNN(2)
        small.fit(model, images, labels, 3)
        assert not model.training
        found.append([weight.clone() for weight in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    small.fit(model, images, labels, 40)
    assert (small.classify(model, images) == labels).mean() > 0.9


def test_augmentation_changes_what_is_learnt():
    images = np.full((4, small.HEIGHT, small.WIDTH, 3), 120, np.uint8)
    weights = []
    for augmentation in (small.PLAIN, small.PLAIN.model_copy(update={"noise": 20.0})):
        torch.manual_seed(0)
        model = small.SmallCNN(2)
        small.fit(model, images, np.arange(4) % 2, 2, augmentation)
        weights.append(model[0][0].weight.detach())
    assert not torch.equal(*weights)
