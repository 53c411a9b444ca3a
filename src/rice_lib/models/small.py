"""A small network on aligned frames, for the studies: it trains in seconds, so that an effect can have several seeds.

A frame is the grain as `backends.align` lays it, level, at a fixed area and mean colour, in 32 x 80 pixels.
"""

from __future__ import annotations

import numpy as np
import torch
from timm.layers import SelectAdaptivePool2d
from torch import nn
from torchvision.ops import Conv2dNormActivation

from rice_lib.backends.align import GrainAlignment
from rice_lib.backends.vit import lay_frames, normalise
from rice_lib.common.parameters import AugmentationParams
from rice_lib.contract.decode import IMAGE_SIZE
from rice_lib.data.loading import Examples
from rice_lib.models.augment import augment

HEIGHT, WIDTH = 32, 80
BATCH = 128
CHANNELS = 16

PLAIN = AugmentationParams(rotation_degrees=0, flip=False, scale=0, shift=0, brightness=0)
"""Nothing changed but the mirroring that `fit` always does."""


class SmallCNN(nn.Sequential):
    """Six convolutions, mean and maximum over the frame, and a linear layer: 73,000 parameters for five classes."""

    def __init__(self, classes: int) -> None:
        blocks: list[nn.Module] = []
        for given, out in ((3, CHANNELS), (CHANNELS, 2 * CHANNELS), (2 * CHANNELS, 4 * CHANNELS)):
            blocks += [Conv2dNormActivation(given, out, stride=2), Conv2dNormActivation(out, out)]
        pool = SelectAdaptivePool2d(pool_type="catavgmax", flatten=True)
        super().__init__(*blocks, pool, nn.Dropout(0.2), nn.Linear(8 * CHANNELS, classes))


def frames(examples: Examples, alignment: GrainAlignment | None = None) -> np.ndarray:
    """Lay the grains of all images into frames: uint8 `[n, 32, 80, 3]`; `alignment` may be another."""
    alignment = alignment or GrainAlignment(IMAGE_SIZE, HEIGHT, WIDTH)
    return np.concatenate([lay_frames(alignment, pixels) for pixels in examples.batches(64)])


def fit(
    model: SmallCNN, images: np.ndarray, labels: np.ndarray, steps: int, augmentation: AugmentationParams = PLAIN
) -> None:
    """Train in place on random batches of `BATCH` mirrored frames: AdamW, one cycle up to 3e-3; draws from torch.

    Takes frames, uint8 `[n, 32, 80, 3]`, their class numbers, int `[n]`, the number of batches, and what else to
    change in each frame. The model is left in evaluation mode.
    """
    optimizer = torch.optim.AdamW(model.train().parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps + 1, pct_start=0.1)
    for _ in range(steps):
        chosen = torch.randint(len(images), (BATCH,)).numpy()
        batch = images[chosen] if augmentation is PLAIN else augment(images[chosen], augmentation)
        pixels = normalise(torch.from_numpy(batch))
        for axis in (2, 3):
            pixels = torch.where(torch.rand(BATCH, 1, 1, 1) < 0.5, pixels, pixels.flip(axis))
        optimizer.zero_grad()
        targets = torch.from_numpy(labels[chosen])
        nn.functional.cross_entropy(model(pixels), targets, label_smoothing=0.02).backward()
        optimizer.step()
        schedule.step()
    model.eval()


def classify(model: SmallCNN, images: np.ndarray) -> np.ndarray:
    """Predict the class numbers of frames, int64 `[n]`."""
    with torch.inference_mode():
        return torch.cat([model(normalise(part)) for part in torch.from_numpy(images).split(256)]).argmax(1).numpy()
