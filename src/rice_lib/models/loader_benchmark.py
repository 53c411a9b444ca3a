"""Measure how fast training images can be had: our memory-mapped loader beside torchvision's `ImageFolder`.

Both deliver augmented batches of uint8 images at 224 px, in the same process and run. The usual one decodes with Pillow
and applies torchvision's transforms, as most ViT tutorials do.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from rice_lib.common.parameters import AugmentationParams
from rice_lib.contract.decode import IMAGE_SIZE
from rice_lib.data.loading import Examples
from rice_lib.models.finetune import PixelDataset, collate


def loader_rates(
    examples: Examples, root: Path, augmentation: AugmentationParams, batch_size: int, limit: int = 2000
) -> pd.DataFrame:
    """Measure images per second of both loaders over `limit` images, in this process (no workers), ours last.

    The examples' paths are relative to `root`. Each loader first loads one batch that is not counted. Returns columns
    `loader`, `images_per_s`, `ratio` (to the usual one).
    """
    part = examples.take(np.arange(min(limit, len(examples))))
    bilinear, side = v2.InterpolationMode.BILINEAR, (IMAGE_SIZE, IMAGE_SIZE)
    shift, scale = (augmentation.shift,) * 2, (1 - augmentation.scale, 1 + augmentation.scale)
    steps = [
        v2.Resize(side, interpolation=bilinear),
        v2.RandomHorizontalFlip(0.5 if augmentation.flip else 0.0),
        v2.RandomAffine(augmentation.rotation_degrees, translate=shift, scale=scale, interpolation=bilinear),
        v2.ColorJitter(brightness=augmentation.brightness),
        v2.PILToTensor(),
    ]
    usable = {str(root / path) for path in part.paths}
    usual = ImageFolder(str(root), v2.Compose(steps), is_valid_file=usable.__contains__, allow_empty=True)
    ours = PixelDataset(part, augmentation)
    rates = {
        "ImageFolder + Pillow + torchvision": _rate(DataLoader(usual, batch_size, True), len(usual)),
        "memory-mapped pixels + OpenCV": _rate(DataLoader(ours, batch_size, True, collate_fn=collate), len(ours)),
    }
    table = pd.DataFrame(rates.items(), columns=["loader", "images_per_s"])
    return table.assign(ratio=table["images_per_s"] / table["images_per_s"].iloc[0])


def _rate(loader: Iterable, count: int) -> float:
    next(iter(loader))
    start = time.perf_counter()
    for _ in loader:
        pass
    return count / (time.perf_counter() - start)
