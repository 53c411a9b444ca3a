"""Small random models in every form, made once for all tests that want them."""

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from rice_lib.backends.vit import PixelClassifier
from rice_lib.common.parameters import ArchitectureParams, FinetuneParams
from rice_lib.data.synthetic import VARIETIES
from rice_lib.export.onnx import Precision, export
from rice_lib.models.vit import create_model

_FOLDER = tempfile.TemporaryDirectory(prefix="rice-tests-")
KEEP = 40


@cache
def tiny_checkpoint(foreground: bool = True) -> Path:
    """A one-layer ViT with random weights, saved as notebook 04 saves one."""
    torch.manual_seed(83)
    model = create_model(
        FinetuneParams(
            model="scratch",
            architecture=ArchitectureParams(hidden_size=32, layers=1, heads=2),
            foreground_patches=KEEP if foreground else None,
        ),
        VARIETIES,
    )
    with torch.no_grad():  # transformers' tiny initial weights would give every image the same logits
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    folder = Path(_FOLDER.name) / f"checkpoint-{foreground}"
    model.save_pretrained(folder)
    return folder


@cache
def tiny_classifier(foreground: bool = True) -> PixelClassifier:
    """The checkpoint, loaded."""
    from rice_lib.backends.vit import load_pixel_classifier

    return load_pixel_classifier(tiny_checkpoint(foreground))


@cache
def tiny_onnx(foreground: bool = True, precision: Precision = "float32") -> Path:
    """The checkpoint, exported."""
    path = Path(_FOLDER.name) / f"{foreground}-{precision}.onnx"
    return export(tiny_classifier(foreground), path, precision=precision, labels=VARIETIES, metadata={"commit": "abc"})


def grains(count: int, seed: int = 0) -> np.ndarray:
    """Bright ellipses on a background of pure and nearly black patches: uint8 `[count, 224, 224, 3]`."""
    rng = np.random.default_rng(seed)
    pixels = np.zeros((count, 224, 224, 3), np.uint8)
    rows, columns = np.mgrid[:224, :224] - 112
    for image in pixels:
        a, b, turn = rng.uniform(50, 90), rng.uniform(15, 40), rng.uniform(0, np.pi)
        along = rows * np.cos(turn) + columns * np.sin(turn)
        across = columns * np.cos(turn) - rows * np.sin(turn)
        grain = (along / a) ** 2 + (across / b) ** 2 < 1
        image[grain] = rng.integers(180, 256, (int(grain.sum()), 3))
        # what JPEG leaves around a grain: single dark pixels, so that many patches are equally bright
        image[rng.integers(0, 224, 30), rng.integers(0, 224, 30)] += 1
    return pixels


def write_grains(folder: Path, count: int) -> list[Path]:
    """The same as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"grain ({number}).png" for number in range(count)]
    for file, pixels in zip(files, grains(count), strict=True):
        Image.fromarray(pixels).save(file)
    return files
