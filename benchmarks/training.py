"""Time training steps of a ViT-Ti, dense and foreground, in turn in one process."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from common import add_number, parser, photographs, ratio, run, span
from tqdm import tqdm

from models import VIT_TINY, in_form
from rice_lib.backends.vit import RiceViTForImageClassification, normalise
from rice_lib.common.errors import run_command
from rice_lib.common.parameters import FinetuneParams
from rice_lib.contract.decode import decode
from rice_lib.data.synthetic import VARIETIES
from rice_lib.models.vit import create_model


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns its exit status."""
    command = parser(__doc__, runs=5)
    add_number(command, "--patches", 48, "patches that the foreground form attends to")
    add_number(command, "--batch-size", 32, "images of a step")
    return run(command, argv, measure, describe)


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Time forward, backward and AdamW on the same batch: images per second of both forms."""
    images = photographs(arguments, folder)[: arguments.batch_size]
    pixels = normalise(torch.from_numpy(np.stack([decode(image) for image in images])))
    labels = torch.arange(len(pixels)) % len(VARIETIES)
    source = create_model(FinetuneParams(model="scratch", architecture=VIT_TINY), VARIETIES)
    forms = {"dense": in_form(source, None), "foreground": in_form(source, arguments.patches)}
    optimizers = {name: torch.optim.AdamW(model.train().parameters(), 1e-4) for name, model in forms.items()}
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for step in tqdm(range(arguments.runs + 1), desc="training steps", leave=False):
        for name, model in forms.items():
            spent = _step(model, optimizers[name], pixels, labels)
            if step:  # the first warms up
                seconds[name].append(spent)
    return {
        "batch": len(pixels),
        "patches": arguments.patches,
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


def describe(found: dict[str, Any]) -> str:
    """Write the measurement as a table for people."""
    rows = [(name, f"{statistics.median(rates):.1f}") for name, rates in found["images_per_s"].items()]
    table = pd.DataFrame(rows, columns=[f"training, batch of {found['batch']}", "images/s, median"])
    return f"{table.to_string(index=False)}\n\nforeground / dense: {span(found['foreground_to_dense'])}"


if __name__ == "__main__":
    run_command(main)
