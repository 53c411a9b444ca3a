"""Open the images of a split as arrays, from the memory-mapped cache: each was decoded once, for the manifest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from rice_lib.common.classes import read_classes
from rice_lib.common.errors import RiceError
from rice_lib.common.paths import Paths
from rice_lib.contract.decision import ImageScale
from rice_lib.data import split as splits
from rice_lib.data.manifest import open_cache, read, read_scale


@dataclass
class Examples:
    """Labelled images: `rows` of the cache `pixels` (uint8 `[manifest rows, 224, 224, 3]`, memory-mapped).

    `rows` and `labels` are int64 `[n]`; `classes` names the labels, `scale` is that of the grains, where it is known.
    Pickled for a worker process, it carries the cache's file name, not its pixels.
    """

    pixels: np.ndarray
    rows: np.ndarray
    labels: np.ndarray
    paths: list[str]
    classes: tuple[str, ...]
    scale: ImageScale | None = None

    def __len__(self) -> int:
        """Number of images."""
        return len(self.rows)

    def batch(self, indices: np.ndarray | slice) -> np.ndarray:
        """Read the images at `indices` (0 to n - 1, or a slice) into a fresh uint8 array `[b, 224, 224, 3]`."""
        return np.asarray(self.pixels[self.rows[indices]])

    def batches(self, size: int, title: str | None = None) -> Iterator[np.ndarray]:
        """Read all images in order, `size` at a time (the last may be fewer), with a progress bar of that title."""
        with tqdm(total=len(self), unit="image", desc=title, delay=1, leave=False, disable=title is None) as bar:
            for start in range(0, len(self), size):
                pixels = self.batch(slice(start, start + size))
                yield pixels
                bar.update(len(pixels))

    def take(self, indices: np.ndarray) -> Examples:
        """Choose the examples at `indices` (int `[b]`), in that order; no pixel is read."""
        paths = [self.paths[i] for i in indices]
        return Examples(self.pixels, self.rows[indices], self.labels[indices], paths, self.classes, self.scale)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the pixels: numpy would pickle a memory map as gigabytes of them."""
        name = getattr(self.pixels, "filename", None)
        return {**self.__dict__, "pixels": self.pixels if name is None else str(name)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Map the cache again."""
        self.__dict__.update(state)
        if isinstance(self.pixels, str):
            self.pixels = np.load(self.pixels, mmap_mode="r")


def open_examples(paths: Paths, scheme: str, *parts: str) -> Examples:
    """Open the images of parts (train, validation, test) of a split scheme, in the manifest's order.

    Raises `RiceError` where there is no such part, or the cache or split is missing or another manifest's.
    """
    if unknown := set(parts) - set(splits.PARTS):
        raise RiceError(f"no part {min(unknown)!r} of a split; known: {', '.join(splits.PARTS)}")
    pixels, split = open_cache(paths), splits.read(paths, scheme)
    row_of = {path: row for row, path in enumerate(read(paths)["path"])}
    chosen = split[split["split"].isin(parts)]
    rows = np.array([row_of[path] for path in chosen["path"]], dtype=np.int64)
    classes = read_classes(paths)
    labels = chosen["label"].map({name: number for number, name in enumerate(classes)}).to_numpy(dtype=np.int64)
    return Examples(pixels, rows, labels, chosen["path"].tolist(), classes, read_scale(paths))
