"""The images of a split as arrays, from the memory-mapped cache: decoded once when the manifest was built,
never again.

The full set is 11 GB on disk; the system keeps in memory what fits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from rice_lib.common.classes import LABEL_TO_ID
from rice_lib.common.errors import RiceError
from rice_lib.common.files import read_json
from rice_lib.common.paths import Paths
from rice_lib.contract.decode import IMAGE_SIZE
from rice_lib.data import manifest as manifests
from rice_lib.data import split as splits


@dataclass
class Examples:
    """Labelled images: `rows` of the cache `pixels` (uint8 `[manifest rows, 224, 224, 3]`, memory-mapped).

    `rows` and `labels` are int64 `[n]`, `paths` the n paths as the manifest has them. Pickled (for a worker
    process), it carries the cache's file name, not its pixels.
    """

    pixels: np.ndarray
    rows: np.ndarray
    labels: np.ndarray
    paths: list[str]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.rows)

    def batch(self, indices: np.ndarray | slice) -> np.ndarray:
        """A fresh uint8 array `[b, 224, 224, 3]` of the images at `indices` (integers in 0..n-1, or a
        slice)."""
        return np.asarray(self.pixels[self.rows[indices]])

    def batches(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All images in order, `size` at a time (the last may be smaller), with their labels."""
        for start in range(0, len(self), size):
            chosen = slice(start, start + size)
            yield self.batch(chosen), self.labels[chosen]

    def take(self, indices: np.ndarray) -> Examples:
        """The examples at `indices`, in that order; no pixel is read."""
        indices = np.asarray(indices, dtype=np.int64)
        return Examples(self.pixels, self.rows[indices], self.labels[indices], [self.paths[i] for i in indices])

    def __getstate__(self) -> dict[str, Any]:
        """numpy would pickle a memory map as gigabytes of pixels."""
        name = getattr(self.pixels, "filename", None)
        return {**self.__dict__, "pixels": self.pixels if name is None else str(name)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Map the cache again."""
        self.__dict__.update(state)
        if isinstance(self.pixels, str):
            self.pixels = np.load(self.pixels, mmap_mode="r")


def open_cache(paths: Paths) -> np.ndarray:
    """The pixels of all images of the manifest, row by row: uint8 `[n, 224, 224, 3]`, memory-mapped,
    read-only.

    Raises:
        RiceError: no cache, or one that belongs to another manifest.
    """
    again = "run notebook 01_eda again"
    try:
        about = read_json(paths.cache / "cache.json")
        pixels = np.load(paths.cache / "pixels.npy", mmap_mode="r")
    except FileNotFoundError:
        raise RiceError(f"{paths.cache}: no pixel cache; run notebook 01_eda (make report) first") from None
    except ValueError:
        raise RiceError(f"{paths.cache}: the pixel cache is damaged; {again}") from None
    if about.get("manifest") != manifests.manifest_hash(paths):
        raise RiceError(f"{paths.cache}: the pixel cache belongs to another manifest; {again}")
    if pixels.shape != (about.get("images"), IMAGE_SIZE, IMAGE_SIZE, 3) or pixels.dtype != np.uint8:
        raise RiceError(f"{paths.cache}: the pixel cache is damaged; {again}")
    return pixels


def open_examples(paths: Paths, scheme: str, part: str) -> Examples:
    """The images of one part (train, validation or test) of a split scheme, in the manifest's order.

    Raises:
        RiceError: no such part, or the manifest, cache or split is missing or belongs to another manifest.
    """
    if part not in splits.PARTS:
        raise RiceError(f"no part {part!r} of a split; known: {', '.join(splits.PARTS)}")
    pixels = open_cache(paths)
    table = manifests.read(paths)
    split = splits.read(paths, scheme)
    chosen = split[split["split"] == part]
    row_of = dict(zip(table["path"], range(len(table)), strict=True))
    rows = np.array([row_of[path] for path in chosen["path"]], dtype=np.int64)
    labels = chosen["label"].map(LABEL_TO_ID).to_numpy(dtype=np.int64)
    return Examples(pixels, rows, labels, chosen["path"].tolist())
