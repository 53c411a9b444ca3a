"""Small image files."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_small(folder: Path, number: int, seed: int = 0) -> list[Path]:
    """Different images, each of a few pixels, so that a test spends its time elsewhere."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    files = [folder / f"{place:05}.png" for place in range(number)]
    for file in files:
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(file)
    return files
