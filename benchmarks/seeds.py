"""Train a profile's ViT several times, briefly, from other seeds: how much of its accuracy is luck?

    python benchmarks/seeds.py --profile scratch --scheme session --epochs 3 --seeds 5 --output FILE

Each training has its own random weights, order of images and augmentation; split and settings are the profile's
(notebooks 01 and 02 wrote the images and the split). Nothing of the profile's own run is touched.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import TrainingArguments, set_seed

from rice_lib.backends.vit import normalise
from rice_lib.common.errors import RiceError, run_command
from rice_lib.common.files import write_json
from rice_lib.common.run import Run
from rice_lib.common.tracking import Metric, provenance
from rice_lib.data.loading import Examples, open_examples
from rice_lib.data.split import SCHEMES
from rice_lib.models.finetune import PixelDataset, RiceTrainer, training_arguments
from rice_lib.models.metrics import classification_metrics
from rice_lib.models.vit import create_model

MEASURED = ("accuracy", "recall/Jasmine")


def main(argv: Sequence[str] | None = None) -> int:
    """Train, measure, print and write; returns the exit status."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--profile", default="scratch", help="whose images, split and settings (default: %(default)s)")
    command.add_argument("--scheme", default="session", choices=SCHEMES, help="default: %(default)s")
    command.add_argument("--epochs", type=float, default=3, help="default: %(default)s")
    command.add_argument("--seeds", type=int, default=5, help="trainings (default: %(default)s)")
    command.add_argument("--output", type=Path, help="JSON file to write")
    options = command.parse_args(argv)
    rows = []
    for seed in range(options.seeds):
        run = Run.open(options.profile, seed=seed, finetune={"epochs": options.epochs})
        rows.append({"seed": seed, **train_once(run, options.scheme)})
        print(f"seed {seed}:", *(f"{name} {rows[-1][name]:.4f}" for name in MEASURED), flush=True)
    table = pd.DataFrame(rows)
    how = f"mean, lowest and highest of the seeds; {options.epochs:g} epochs"
    metrics = {
        name: Metric(table[name].mean(), table[name].min(), table[name].max(), n=len(table), how=how, name=name)
        for name in MEASURED
    }
    for name, metric in metrics.items():
        print(f"{name}: {metric.value:.4f}, {metric.low:.4f} to {metric.high:.4f}")
    if options.output:
        found = {"metrics": {name: asdict(metric) for name, metric in metrics.items()}, "seeds": rows}
        write_json(options.output, {**found, "scheme": options.scheme, "provenance": provenance(run)})
    return 0


def train_once(run: Run, scheme: str) -> dict[str, float]:
    """Train from the run's seed on a split, and measure on its test images."""
    train, test = (open_examples(run.paths, scheme, part) for part in ("train", "test"))
    set_seed(run.params.seed)
    model = create_model(run.params.finetune, train.classes)
    with tempfile.TemporaryDirectory() as folder:
        trainer = RiceTrainer(
            weight_average=run.params.finetune.weight_average,
            model=model,
            args=last_weights(training_arguments(run, scheme), folder),
            train_dataset=PixelDataset(train, run.params.finetune.augmentation),
            data_collator=dict,  # as it is: PixelDataset reads batches already
        )
        trainer.train()
    trained = model if trainer.average is None else trainer.average
    metrics = classification_metrics(test.labels, classify(trained, test), test.classes, run.params.seed)
    found = {name: metrics[name].value for name in MEASURED if name in metrics}
    if missing := [name for name in MEASURED if found.get(name) is None]:
        raise RiceError(f"profile {run.params.profile}, {scheme}: no test image for {', '.join(missing)}")
    return {name: float(value) for name, value in found.items() if value is not None}


def last_weights(arguments: TrainingArguments, folder: str) -> TrainingArguments:
    """Have a training write nothing and end with its last weights: a short one needs no choice of epoch."""
    arguments.output_dir, arguments.load_best_model_at_end = folder, False
    return arguments.set_save("no").set_evaluate("no")


def classify(model: torch.nn.Module, examples: Examples) -> np.ndarray:
    """Predict the class numbers of all images."""
    model.eval()
    with torch.inference_mode():
        batches = map(normalise, map(torch.from_numpy, examples.batches(64, "test")))
        return np.concatenate([model(batch).logits.argmax(1).numpy() for batch in batches])


if __name__ == "__main__":
    run_command(main)
