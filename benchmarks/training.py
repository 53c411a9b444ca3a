"""What attending to the foreground alone saves in training: steps of both forms in turn, in one process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from models import VIT_TINY, in_form
from rice_lib.backends.vit import RiceViTForImageClassification, normalise
from rice_lib.common.classes import VARIETIES
from rice_lib.common.parameters import FinetuneParams
from rice_lib.contract.decode import decode
from rice_lib.export.timing import ratio
from rice_lib.models.vit import create_model


def measure(images: Sequence[Path], patches: int, batch: int, steps: int) -> dict[str, Any]:
    """Training images per second of a ViT-Ti, dense and foreground: forward, backward and AdamW on the same batch.

    Args:
        images: photographs to train on; the first `batch` of them.
        patches: K of the foreground form.
        batch: images of a step.
        steps: counted steps of each form; one more comes first.
    """
    pixels = normalise(torch.from_numpy(np.stack([decode(image) for image in images[:batch]])))
    labels = torch.arange(len(pixels)) % len(VARIETIES)
    source = create_model(FinetuneParams(model="scratch", architecture=VIT_TINY), VARIETIES)
    forms = {"dense": in_form(source, None), "foreground": in_form(source, patches)}
    optimizers = {name: torch.optim.AdamW(model.train().parameters(), 1e-4) for name, model in forms.items()}
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for step in tqdm(range(steps + 1), desc="training steps", leave=False):
        for name, model in forms.items():
            spent = _step(model, optimizers[name], pixels, labels)
            if step:
                seconds[name].append(spent)
    return {
        "batch": len(pixels),
        "patches": patches,
        "images_per_s": {name: [len(pixels) / spent for spent in each] for name, each in seconds.items()},
        "foreground_to_dense": ratio(seconds["dense"], seconds["foreground"]),
    }


def _step(
    model: RiceViTForImageClassification, optimizer: torch.optim.Optimizer, pixels: torch.Tensor, labels: torch.Tensor
) -> float:
    started = time.perf_counter()
    optimizer.zero_grad()
    model(pixel_values=pixels, labels=labels).loss.backward()
    optimizer.step()
    return time.perf_counter() - started


def lines(found: dict[str, Any]) -> list[str]:
    """The measurement as a table for people."""
    told = [f"{'training, batch of ' + str(found['batch']):<36}{'images/s, median':>18}"]
    told += [f"{name:<36}{sorted(rates)[len(rates) // 2]:>18.1f}" for name, rates in found["images_per_s"].items()]
    low, middle, high = found["foreground_to_dense"]
    return [*told, "", f"{'foreground is faster than dense, times':<60}{middle:.2f} ({low:.2f} to {high:.2f})"]
