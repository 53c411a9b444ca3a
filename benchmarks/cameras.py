"""Measure models on three kinds of test images: a random split, a session never seen, another camera (simulated).

    python benchmarks/cameras.py --model "ViT=a.onnx" --session-model "ViT=twin.onnx" --figure docs/findings.svg

The ten features are fitted here, with and without those of size, once on each split of a profile (notebooks 01 and 02
wrote them). A model of `--model` was trained on the random split, one of `--session-model` on the first session alone;
two of one name are one line of the figure. The camera photographs test images of the random split.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from rice_lib.backends.open import open_predictor
from rice_lib.common.errors import run_command
from rice_lib.common.files import write_json
from rice_lib.common.run import Run
from rice_lib.common.tracking import Metric, provenance
from rice_lib.data.camera import rephotograph
from rice_lib.data.loading import Examples, open_examples
from rice_lib.data.shape_features import FEATURE_NAMES, shape_features
from rice_lib.models.baseline import linear_classifier, thin
from rice_lib.models.metrics import classification_metrics, label_columns
from rice_lib.report import charts, style
from rice_lib.report.results import KINDS

SIZE = ("area", "major axis", "minor axis")
FEATURES = {"ten features": (), "without size": SIZE}
Classify = Callable[[np.ndarray], np.ndarray]
"""uint8 `[n, 224, 224, 3]` to class numbers."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write and draw; returns the exit status."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--profile", default="scratch", help="whose images and splits (default: %(default)s)")
    models: dict[str, Any] = {"action": "append", "default": [], "metavar": "NAME=FILE"}
    command.add_argument("--model", help="trained on the random split; may be repeated", **models)
    command.add_argument("--session-model", help="trained on the first session alone; may be repeated", **models)
    command.add_argument("--images", type=int, default=1000, help="test images of each kind (default: %(default)s)")
    command.add_argument("--output", type=Path, help="JSON file to write")
    command.add_argument("--figure", type=Path, help="SVG file to draw")
    arguments = command.parse_args(argv)
    run = Run.open(arguments.profile)
    tests = {split: open_part(run, split, "test", arguments.images) for split in ("random", "session")}
    tests["camera"] = rephotograph(tests["random"], run.params.seed)
    rows = [*features_rows(run, tests)]
    for split, models in {"random": arguments.model, "session": arguments.session_model}.items():
        rows += [row for model in models for row in model_rows(*model.split("=", 1), split, tests)]
    found: dict[str, dict[str, Metric]] = {}
    for name, kind, metrics in rows:
        found.setdefault(name, {})[KINDS[kind]] = metrics["accuracy"]
        print(f"{name:<24} {kind:<8}", *(f"{key} {metric.value:.4f}" for key, metric in metrics.items()), flush=True)
    if arguments.output:
        measured = {
            f"{name}/{kind}/{k}": asdict(metric) for name, kind, metrics in rows for k, metric in metrics.items()
        }
        write_json(arguments.output, {"metrics": measured, "images": arguments.images, "provenance": provenance(run)})
    if arguments.figure:
        style.use_style()
        style.save(charts.slope(found, list(KINDS.values())), arguments.figure)
    return 0


Row = tuple[str, str, dict[str, Metric]]
"""A model's name, the kind of test images, and its accuracy and Jasmine's recall there."""


def open_part(run: Run, split: str, part: str, limit: int) -> Examples:
    """Open at most `limit` images of a part of a split, stratified."""
    return thin(open_examples(run.paths, split, part), limit, run.params.seed)


def features_rows(run: Run, tests: dict[str, Examples]) -> Iterator[Row]:
    """Fit logistic regression on the features of each split's training images, and measure it."""
    for split in ("random", "session"):
        train = open_part(run, split, "train", 8 * len(tests[split]))
        values = shape_features(image for batch in train.batches(64) for image in batch)
        for name, left_out in FEATURES.items():
            columns = [number for number, feature in enumerate(FEATURE_NAMES) if feature not in left_out]
            classifier = linear_classifier().fit(values[:, columns], train.labels)
            yield from measure(
                name,
                split,
                tests,
                lambda images: classifier.predict(shape_features(images)[:, columns]),  # noqa: B023
            )


def model_rows(name: str, file: str, split: str, tests: dict[str, Examples]) -> Iterator[Row]:
    """Measure a model that was trained on a split."""
    with open_predictor(file, threads=1) as predictor:
        columns = label_columns(predictor, tests[split].classes)
        yield from measure(name, split, tests, lambda images: predictor.logits(images)[:, columns].argmax(1))


def measure(name: str, split: str, tests: dict[str, Examples], classify: Classify) -> Iterator[Row]:
    """Measure on the test images of the split that it was trained on; of the random split, on the other camera too."""
    for kind in ("random", "camera") if split == "random" else ("session",):
        test = tests[kind]
        predicted = np.concatenate([classify(images) for images in test.batches(32)])
        metrics = classification_metrics(test.labels, predicted, test.classes, 0)
        yield name, kind, {key: metrics[key] for key in ("accuracy", "recall/Jasmine")}


if __name__ == "__main__":
    run_command(main)
