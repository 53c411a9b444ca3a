"""How fast training images can be had, without any model: our memory-mapped loader beside the usual one.

Both deliver the same thing in the same process and run: augmented batches of uint8 images at 224 px. The usual one is
torchvision's `ImageFolder` with Pillow decoding and torchvision's transforms, what most ViT tutorials use.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from rice_lib.common.parameters import AugmentationParams
from rice_lib.contract.decode import IMAGE_SIZE
from rice_lib.data.loading import Examples
from rice_lib.models.finetune import PixelDataset, collate


class FileDataset(Dataset):
    """Image files decoded, resized and augmented one by one, as `torchvision.datasets.ImageFolder` does it."""

    def __init__(self, files: list[Path], labels: list[int], augmentation: AugmentationParams) -> None:
        self.files, self.labels = files, labels
        self.transform = v2.Compose(
            [
                v2.Resize((IMAGE_SIZE, IMAGE_SIZE), interpolation=v2.InterpolationMode.BILINEAR),
                v2.RandomHorizontalFlip(0.5 if augmentation.flip else 0.0),
                v2.RandomAffine(
                    augmentation.rotation_degrees,
                    translate=(augmentation.shift, augmentation.shift),
                    scale=(1 - augmentation.scale, 1 + augmentation.scale),
                    interpolation=v2.InterpolationMode.BILINEAR,
                ),
                v2.ColorJitter(brightness=augmentation.brightness),
                v2.PILToTensor(),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[object, int]:
        """uint8 `[3, 224, 224]` and the class number."""
        with Image.open(self.files[index]) as image:
            return self.transform(image.convert("RGB")), self.labels[index]


def loader_rates(
    examples: Examples, root: Path, augmentation: AugmentationParams, batch_size: int, limit: int = 2000
) -> pd.DataFrame:
    """Images per second of both loaders over the first `limit` examples, in this process (no workers), ours last.

    Args:
        examples: training images.
        root: the folder that their paths are relative to, `rice_lib.data.sources.fetch` returns it.
        augmentation: applied by both.
        batch_size: of both.
        limit: images to load; each loader first loads one batch that is not counted.

    Returns:
        Columns `loader`, `images_per_s`, `ratio` (to the usual one).
    """
    count = min(limit, len(examples))
    part = examples.take(np.arange(count))
    usual = FileDataset([root / path for path in part.paths], part.labels.tolist(), augmentation)
    rates = {
        "ImageFolder + Pillow + torchvision": _rate(DataLoader(usual, batch_size, shuffle=True), count),
        "memory-mapped pixels + OpenCV": _rate(
            DataLoader(PixelDataset(part, augmentation), batch_size, shuffle=True, collate_fn=collate), count
        ),
    }
    table = pd.DataFrame({"loader": list(rates), "images_per_s": list(rates.values())})
    return table.assign(ratio=table["images_per_s"] / table["images_per_s"].iloc[0])


def _rate(loader: Iterable, count: int) -> float:
    next(iter(loader))
    start = time.perf_counter()
    for _ in loader:
        pass
    return count / (time.perf_counter() - start)
