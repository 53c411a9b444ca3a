"""The study scripts: the shifts do what they say, and each part of the alignment can be left out."""

from __future__ import annotations

import numpy as np
import pytest
import study_alignment
import study_shifts
import torch
from support.models import grains

from rice_lib.data.loading import Examples


def test_shifts_change_scale_colour_and_light_as_named():
    image = grains(1)[0]
    bright = image.max(-1) > 100
    shifted = {name: change(image) for name, change in study_shifts.SHIFTS.items()}
    assert all(pixels.shape == image.shape and pixels.dtype == np.uint8 for pixels in shifted.values())
    assert np.array_equal(shifted["as photographed"], image)
    for factor in (0.75, 1.3):
        area = (shifted[f"scale {factor}"].max(-1) > 100).sum() / bright.sum()
        assert abs(area - factor**2) < 0.15 * factor**2
    ratio = shifted["red x 0.85"][bright].mean(0) / image[bright].mean(0)
    np.testing.assert_allclose(ratio, (0.85, 1, 1), atol=0.01)
    assert np.ptp(shifted["grey"].astype(int), axis=-1).max() == 0


def test_size_and_colour_stay_in_a_frame_where_they_are_not_fixed():
    small, large = grains(1)[0], study_shifts.scaled(1.25)(grains(1)[0])
    pixels = np.stack([small, large, study_shifts.gained(0.8, 1, 0.7)(small)])
    examples = Examples(pixels, np.arange(3), np.zeros(3, np.int64), ["a", "b", "c"], ())
    for variant, (size, colour) in study_alignment.VARIANTS.items():
        frames = study_alignment.Frames(size, colour).of(examples)
        assert frames.shape == (3, 3, study_alignment.HEIGHT, study_alignment.WIDTH)
        area = (frames.mean(1) > 0.5 * frames[:, :, 16, 40].mean(1)[:, None, None]).sum((1, 2)).float()
        assert (abs(area[1] / area[0] - 1) < 0.1) == size, variant
        same = (frames[2] - frames[0]).abs().mean() < 0.05 * frames[0].abs().mean()
        assert bool(same) == colour, variant


@pytest.mark.slow
def test_a_few_steps_of_training_lower_the_loss():
    frames = torch.randn(40, 3, 32, 80) + torch.arange(40)[:, None, None, None] % 5
    labels = torch.arange(40) % 5
    few, more = (study_alignment.measure(study_alignment.train(frames, labels, n, 0), frames, labels) for n in (2, 40))
    assert more["accuracy"] > max(0.6, few["accuracy"])
